import pytest

from clipjax.config import DataConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"global_batch_size": 0}, "global_batch_size=0 must be positive"),
        ({"caption": "text"}, "caption='text' must be 'txt' or 'json.FIELD'"),
        ({"crop_scale": (0.0, 1.0)}, r"crop_scale=\(0\.0, 1\.0\) must be"),
        ({"crop_scale": (0.9, 0.8)}, "crop_scale"),
        ({"crop_scale": (0.9, 1.1)}, "crop_scale"),
        ({"crop_ratio": (0.0, 1.0)}, "crop_ratio"),
        ({"crop_ratio": (2.0, 1.0)}, "crop_ratio"),
        ({"shuffle_seed": -1}, "shuffle_seed=-1 must be in"),
        ({"threads": -1}, "threads=-1 must not be negative"),
        ({"text_buckets": (32, 16)}, r"text_buckets=\(32, 16\) must ascend"),
        ({"text_buckets": (16, 16)}, "must ascend"),
        ({"text_buckets": (2, 16)}, "must ascend and be 3 or more"),
        ({"bucket_group": 0}, "bucket_group=0 must be positive"),
        ({"max_patches": 0}, "max_patches=0 must be in 1"),
        ({"max_patches": 2**15}, "max_patches=32768 must be in 1"),
    ],
)
def test_a_value_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"caption": "json.captions"},
        {"crop_scale": (1.0, 1.0)},
        {"crop_ratio": (1.0, 1.0)},
        {"global_batch_size": 1},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(values):
    DataConfig(**values)
