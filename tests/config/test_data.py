import pytest

from clipjax.config import (
    AugmentConfig,
    DataConfig,
    MixtureConfig,
    RemoteConfig,
    TokenizerConfig,
    from_config_dict,
    to_json_dict,
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"global_batch_size": 0}, "global_batch_size=0 must be positive"),
        ({"caption": "text"}, "caption='text' must be 'txt', 'json.FIELD', or several"),
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"flip": -0.1}, r"flip=-0\.1 must be in \[0, 1\]"),
        ({"flip": float("nan")}, "flip=nan must be in"),
        ({"grey_probability": 1.5}, r"grey_probability=1\.5 must be in \[0, 1\]"),
        ({"colour_jitter_probability": 2.0}, "colour_jitter_probability=2.0 must be in"),
        ({"colour": 1.1}, "colour=1.1 must be in"),
        ({"shift": -1}, "shift=-1 must be a number that is not negative"),
        ({"noise": float("inf")}, "noise=inf must be a number that is not negative"),
        ({"rand_augment_layers": -1}, "rand_augment_layers=-1 must be a number that is not"),
        ({"rand_augment_magnitude": 31}, r"rand_augment_magnitude=31 must be in \[0, 30\]"),
        ({"rand_augment_magnitude": -1}, r"rand_augment_magnitude=-1 must be in \[0, 30\]"),
        ({"colour_jitter": (0.1, 0.1, 1.1, 0.1)}, "colour_jitter=.* must be brightness, contrast"),
        ({"colour_jitter": (0.1, 0.1, 0.1, 0.6)}, r"hue in \[0, 0\.5\]"),
        ({"colour_jitter": (-0.1, 0.1, 0.1, 0.1)}, "colour_jitter"),
    ],
)
def test_an_augmentation_out_of_range_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**values)


def test_every_augmentation_at_the_ends_of_its_range_is_allowed_and_survives_a_file():
    config = AugmentConfig(
        flip=1.0,
        shift=0,
        rand_augment_layers=2,
        rand_augment_magnitude=30,
        colour_jitter=(1.0, 1.0, 1.0, 0.5),
        colour_jitter_probability=0.0,
        grey_probability=1.0,
        colour=1.0,
    )
    values = to_json_dict(config)
    values["colour_jitter"] = list(values["colour_jitter"])
    assert from_config_dict(AugmentConfig, values) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "sentencepiece"}, "path: kind='sentencepiece' needs the file"),
        ({"kind": "huggingface"}, "path: kind='huggingface' needs the file"),
        ({"path": "x.json"}, "path='x.json': kind='bpe' reads no file"),
        ({"kind": "byte", "path": "x.json"}, "kind='byte' reads no file"),
        ({"kind": "clip", "strip_punctuation": True}, "not of kind='clip'"),
        ({"kind": "bpe", "pad_id": 0}, "not of kind='bpe'"),
        ({"kind": "huggingface", "path": "x", "pad_id": -1}, "pad_id=-1 must not be negative"),
        ({"training_captions": 0}, "training_captions=0 must be positive"),
    ],
)
def test_fields_of_a_tokenizer_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "clip"},
        {"kind": "clip", "path": "tokenizer.json"},
        {"kind": "sentencepiece", "path": "x.model", "pad_id": 0, "strip_punctuation": True},
        {"kind": "huggingface", "path": "tokenizer.json", "lowercase": False},
        {"training_captions": 1},
    ],
)
def test_every_kind_of_tokenizer_can_be_described(values):
    TokenizerConfig(**values)


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


def test_a_source_that_no_run_would_see_is_refused():
    sources = {"web": MixtureConfig(weight=1e6), "rare": MixtureConfig(weight=1e-6)}
    with pytest.raises(ValueError, match="mixture: rare has less than 2e-9 of the weight"):
        DataConfig(mixture=sources)
    DataConfig(mixture={"web": MixtureConfig(weight=1e2), "rare": MixtureConfig(weight=1e-6)})
