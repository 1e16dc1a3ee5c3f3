import dataclasses

import pytest

from clipjax.config import (
    AugmentConfig,
    CheckpointConfig,
    ComputeConfig,
    ConvNetConfig,
    DataConfig,
    DualEncoderConfig,
    LogConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    TextConfig,
    TokenizerConfig,
    TrainConfig,
)


@pytest.mark.parametrize(
    ("config_class", "values", "message"),
    [
        (OptimConfig, {"ema_decay": 1.0}, r"ema_decay=1\.0 must be in \[0, 1\)"),
        (OptimConfig, {"ema_decay": -0.1}, r"ema_decay=-0\.1 must be in"),
        (OptimConfig, {"warmup_steps": -1}, "warmup_steps=-1 must not be negative"),
        (OptimConfig, {"beta1": 1.0}, r"beta1=1\.0 must be in \[0, 1\)"),
        (OptimConfig, {"beta2": -0.5}, r"beta2=-0\.5 must be in"),
        (OptimConfig, {"final_share": 1.5}, r"final_share=1\.5 must be in \[0, 1\]"),
        (OptimConfig, {"cooldown_steps": -1}, "cooldown_steps=-1 must not be negative"),
        (OptimConfig, {"timescale_steps": 0}, "timescale_steps=0 must be positive"),
        (OptimConfig, {"layer_decay_image": 0.0}, r"layer_decay_image=0\.0 must be in \(0, 1\]"),
        (OptimConfig, {"layer_decay_text": 1.1}, r"layer_decay_text=1\.1 must be in"),
        (OptimConfig, {"rates": ("image/*",)}, r"rates: 'image/\*' is not PATTERN=FACTOR"),
        (OptimConfig, {"rates": ("image/*=0",)}, "positive factor.*`freeze`"),
        (OptimConfig, {"rates": ("=2",)}, "'=2' is not PATTERN=FACTOR"),
        (OptimConfig, {"rates": ("a=nan",)}, "'a=nan' is not PATTERN=FACTOR"),
        (
            MeshConfig,
            {"data": -1, "fsdp": -1},
            r"data=-1, fsdp=-1, tensor=1: must be positive; one",
        ),
        (MeshConfig, {"tensor": 0}, r"data=-1, tensor=0: must be positive"),
        (MeshConfig, {"data": -2}, r"data=-2, tensor=1: must be positive"),
        (CheckpointConfig, {"every_steps": 0}, "every_steps=0, keep=2 and keep_best=1 must be"),
        (CheckpointConfig, {"keep": 0}, "every_steps=1000, keep=0 and keep_best=1 must be"),
        (LogConfig, {"every_steps": 0}, "every_steps=0 must be positive"),
        (TrainConfig, {"num_steps": 0}, "num_steps=0 must be positive"),
        (TrainConfig, {"seed": -1}, "seed=-1 must be in"),
        (TrainConfig, {"seed": 2**32}, "seed=4294967296 must be in"),
    ],
)
def test_a_value_out_of_range_is_refused(config_class, values, message):
    with pytest.raises(ValueError, match=message):
        config_class(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "wsd"}, "'wsd' needs cooldown_steps"),
        (
            {"cooldown_steps": 5},
            r"cooldown_steps=5 is for schedule='wsd' and 'rsqrt', not 'cosine'",
        ),
        ({"schedule": "constant", "final_share": 0.1}, "nothing falls to it"),
        ({"schedule": "rsqrt", "final_share": 0.1}, "nothing falls to it"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OptimConfig(**values)


def test_a_cool_down_fits_behind_the_warm_up():
    optim = OptimConfig(schedule="wsd", warmup_steps=6, cooldown_steps=5)
    with pytest.raises(ValueError, match=r"optim\.cooldown_steps=5 do not fit into num_steps=10"):
        TrainConfig(num_steps=10, optim=optim)
    TrainConfig(num_steps=11, optim=optim)
    TrainConfig(num_steps=10)  # a warm-up alone may be longer than a run that only tries something


def test_the_sigmoid_loss_needs_a_bias():
    sigmoid = LossConfig(kind="sigmoid")
    with pytest.raises(ValueError, match=r"needs model\.init_logit_bias"):
        TrainConfig(loss=sigmoid)
    TrainConfig(loss=sigmoid, model=DualEncoderConfig(init_logit_bias=0.0))


def test_the_byte_tokenizer_needs_a_vocabulary_of_its_size():
    byte = TokenizerConfig(kind="byte")
    with pytest.raises(ValueError, match=r"model\.text\.vocab_size=258, not 49408"):
        TrainConfig(tokenizer=byte)
    TrainConfig(tokenizer=byte, model=DualEncoderConfig(text=TextConfig(vocab_size=258)))


def test_replacing_a_field_checks_again():
    with pytest.raises(ValueError, match="num_steps=-1"):
        dataclasses.replace(TrainConfig(), num_steps=-1)


def test_naflex_needs_a_vit_and_whole_images_for_nothing():
    data = DataConfig(image_mode="naflex")
    assert TrainConfig(data=data).data.max_patches == 256
    with pytest.raises(ValueError, match=r"image_mode='naflex'.*model\.image\.kind='convnet'"):
        TrainConfig(data=data, model=DualEncoderConfig(image=ConvNetConfig()))
    with pytest.raises(ValueError, match=r"naflex.*leave out augment\.flip, augment\.shift$"):
        TrainConfig(data=data, augment=AugmentConfig(flip=0.5, shift=2))
    TrainConfig(augment=AugmentConfig(flip=0.5))


def test_buckets_of_texts_need_a_tower_that_does_not_see_padding():
    def train(buckets, **text):
        return TrainConfig(
            data=DataConfig(text_buckets=buckets), model=DualEncoderConfig(text=TextConfig(**text))
        )

    assert train((16, 32, 77)).data.bucket_group == 16
    with pytest.raises(ValueError, match=r"text_buckets=\(16, 32\) must end with.*length=77"):
        train((16, 32))
    for text in ({"causal": False}, {"pool": "last"}, {"pool": "mean"}):
        with pytest.raises(ValueError, match=r"data\.text_buckets needs model\.text\.causal"):
            train((16, 77), **text)


def test_float16_is_for_encoding_only():
    def train(dtype):
        return TrainConfig(model=DualEncoderConfig(compute=ComputeConfig(dtype=dtype)))

    assert train("bfloat16").model.compute.dtype == "bfloat16"
    with pytest.raises(ValueError, match=r"model\.compute\.dtype='float16' is for encoding"):
        train("float16")
