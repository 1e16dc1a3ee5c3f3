import pytest

from clipjax.config import DataConfig, RemoteConfig


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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"request_timeout_seconds": 0.0}, "request_timeout_seconds=0.0 must be positive"),
        ({"request_timeout_seconds": float("inf")}, "request_timeout_seconds=inf"),
        ({"request_timeout_seconds": float("nan")}, "request_timeout_seconds=nan"),
        ({"retry_seconds": -1.0}, "retry_seconds=-1.0 must not be negative"),
        ({"retry_seconds": float("nan")}, "retry_seconds=nan"),
        ({"concurrency": 0}, "concurrency=0 must be positive"),
        ({"block_bytes": 0}, "block_bytes=0 must be positive"),
        ({"cache_bytes": 1000}, "cache_bytes=1000 must be 0 or at least block_bytes=8388608"),
        ({"cache_bytes": -1}, "cache_bytes=-1"),
        ({"endpoint": "localhost:9000"}, "endpoint='localhost:9000' must begin with http"),
    ],
)
def test_a_remote_value_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RemoteConfig(**values)


def test_a_password_in_the_endpoint_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="environment") as caught:
        RemoteConfig(endpoint="https://me:hush@host")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"cache_bytes": 0}, {"retry_seconds": 0.0}, {"cache_bytes": 5, "block_bytes": 5}]
)
def test_the_ends_of_the_remote_ranges_are_allowed(values):
    assert DataConfig(remote=RemoteConfig(**values)).remote == RemoteConfig(**values)
