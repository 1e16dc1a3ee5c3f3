import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import (
    PRESETS,
    ConvNetConfig,
    DataConfig,
    DualEncoderConfig,
    EvalsConfig,
    InitConfig,
    LogConfig,
    MeshConfig,
    OptimConfig,
    TaskConfig,
    TrainConfig,
    UsageError,
    ViTConfig,
    from_config_dict,
    to_config_dict,
    to_json_dict,
)

TASKS = {"a": TaskConfig(shards="x"), "b": TaskConfig(kind="zeroshot", classnames="c.txt")}

RUNS = {
    "defaults": TrainConfig(),
    "every optional field filled": TrainConfig(
        model=DualEncoderConfig(init_logit_bias=-10.0),
        data=DataConfig(index_dir="/indexes"),
        log=LogConfig(wandb_project="mine"),
    ),
    "every optional field empty": TrainConfig(optim=OptimConfig(clip_norm=None)),
    "the other tower": TrainConfig(
        model=DualEncoderConfig(image=ConvNetConfig(widths=(4, 8), depths=(2, 1)))
    ),
    "tasks": TrainConfig(evals=EvalsConfig(tasks=TASKS)),
    **{name: TrainConfig(model=config) for name, config in PRESETS.items()},
}


@pytest.mark.parametrize("config", RUNS.values(), ids=RUNS)
def test_a_config_comes_back_from_config_dict_and_json(config):
    assert from_config_dict(TrainConfig, to_config_dict(config)) == config
    assert from_config_dict(TrainConfig, json.loads(json.dumps(to_json_dict(config)))) == config


@settings(deadline=None, max_examples=50)
@given(
    st.builds(
        OptimConfig,
        peak_learning_rate=st.floats(allow_nan=False, allow_infinity=False),
        warmup_steps=st.integers(0, 10**9),
        schedule=st.sampled_from(["cosine", "constant", "linear", "rsqrt"]),
        rates=st.lists(st.sampled_from(["a=0.1", "b/*=1e-30"]), max_size=2).map(tuple),
        clip_norm=st.none() | st.floats(0, 10),
        ema_decay=st.floats(0, 1, exclude_max=True),
    ),
    st.dictionaries(
        st.text(st.characters(categories=["Ll", "Nd"]), min_size=1),
        st.builds(TaskConfig, shards=st.text(), kind=st.sampled_from(["zeroshot", "retrieval"])),
    ),
)
def test_any_values_come_back_to_the_last_digit(optim, tasks):
    config = TrainConfig(optim=optim, evals=EvalsConfig(tasks=tasks))
    assert from_config_dict(TrainConfig, to_config_dict(config)) == config
    assert from_config_dict(TrainConfig, json.loads(json.dumps(to_json_dict(config)))) == config


def test_missing_fields_take_their_defaults():
    assert from_config_dict(TrainConfig, {}) == TrainConfig()
    found = from_config_dict(TrainConfig, {"optim": {"eps": 1e-8}})
    assert found == TrainConfig(optim=OptimConfig(eps=1e-8))


def test_the_kind_chooses_among_classes_and_the_first_is_the_default():
    convnet = from_config_dict(DualEncoderConfig, {"image": {"kind": "convnet"}})
    assert convnet.image == ConvNetConfig()
    assert from_config_dict(DualEncoderConfig, {"image": {"width": 96}}).image == ViTConfig(
        width=96
    )


def test_a_whole_number_may_stand_for_a_float():
    found = from_config_dict(OptimConfig, {"clip_norm": 2, "eps": 1})
    assert (found.clip_norm, found.eps) == (2.0, 1.0)
    assert type(found.clip_norm) is type(found.eps) is float
    assert from_config_dict(DataConfig, {"crop_scale": [1, 1]}).crop_scale == (1.0, 1.0)


def test_lists_become_tuples():
    assert from_config_dict(ConvNetConfig, {"widths": [8, 16, 32]}).widths == (8, 16, 32)


MISTAKES = {
    "an unknown field, with the nearest": (
        {"optim": {"weight_decy": 0.1}},
        "config.optim.weight_decy: no such field. Did you mean 'weight_decay'? Fields here: ",
    ),
    "an unknown section": (
        {"optimizer": {}},
        "config.optimizer: no such field. Did you mean 'optim'?",
    ),
    "an unknown field of a task": (
        {"evals": {"tasks": {"a": {"shard": "x"}}}},
        "config.evals.tasks.a.shard: no such field. Did you mean 'shards'?",
    ),
    "a field of the other tower": (
        {"model": {"image": {"kind": "convnet", "patch_size": 8}}},
        "config.model.image.patch_size: no such field.",
    ),
    "text for a number": ({"num_steps": "3"}, "config.num_steps='3': expected int, found str."),
    "a float for a whole number": (
        {"num_steps": 3.0},
        "config.num_steps=3.0: expected int, found float.",
    ),
    "a bool for a number": (
        {"num_steps": True},
        "config.num_steps=True: expected int, found bool.",
    ),
    "a bool for a float": (
        {"optim": {"eps": True}},
        "config.optim.eps=True: expected float, found bool.",
    ),
    "a number for a bool": (
        {"log": {"tensorboard": 1}},
        "config.log.tensorboard=1: expected bool, found int.",
    ),
    "text for an optional number": (
        {"optim": {"clip_norm": "1"}},
        "config.optim.clip_norm='1': expected float, found str.",
    ),
    "nothing for what must be there": (
        {"optim": {"eps": None}},
        "config.optim.eps=None: expected float, found NoneType.",
    ),
    "a word that is not a choice": (
        {"optim": {"schedule": "cosin"}},
        "config.optim.schedule='cosin' is not one of 'cosine', 'constant', 'linear', 'rsqrt', "
        "'wsd'. Did you mean 'cosine'?",
    ),
    "an unknown kind": (
        {"model": {"image": {"kind": "alexnet"}}},
        "config.model.image.kind='alexnet' is not one of 'vit', 'convnet', 'resnet',",
    ),
    "a kind that is no word": (
        {"model": {"image": {"kind": ["vit"]}}},
        "config.model.image.kind=['vit'] is",
    ),
    "too few values": (
        {"data": {"crop_scale": [0.5]}},
        "config.data.crop_scale=[0.5]: expected 2 values, found 1.",
    ),
    "one value for a tuple": (
        {"data": {"crop_scale": 0.5}},
        "config.data.crop_scale=0.5: expected a tuple",
    ),
    "a wrong value inside a tuple": (
        {"data": {"crop_scale": [0.5, "x"]}},
        "config.data.crop_scale[1]='x': expected float, found str.",
    ),
    "a value for a section": (
        {"optim": 3},
        "config.optim: expected a section with fields, found 3.",
    ),
    "a value for a tower": ({"model": {"image": "vit"}}, "config.model.image: expected a section"),
    "a list of tasks": ({"evals": {"tasks": ["a"]}}, "config.evals.tasks: expected a section"),
    "a value for a task": (
        {"evals": {"tasks": {"a": 1}}},
        "config.evals.tasks.a: expected a section",
    ),
    "no section at all": ([], "config: expected a section"),
    "what the dataclass rejects": (
        {"optim": {"ema_decay": 1.0}},
        "config.optim: ema_decay=1.0 must be in [0, 1).",
    ),
}


@pytest.mark.parametrize(("values", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_its_field(values, message):
    with pytest.raises(UsageError) as caught:
        from_config_dict(TrainConfig, values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_field_far_from_every_name_gets_no_guess():
    with pytest.raises(
        UsageError, match=r"no such field\. Fields here: data, fsdp, replica, tensor"
    ):
        from_config_dict(MeshConfig, {"zzzz": 1})


def dataclass_types(config_class=TrainConfig):
    """Every config class, by walking the instances of the default run and the unions."""
    found = {config_class, ConvNetConfig, TaskConfig}
    for field in dataclasses.fields(config_class()):
        value = getattr(config_class(), field.name)
        if dataclasses.is_dataclass(value):
            found |= dataclass_types(type(value))
    return found


@pytest.mark.parametrize("config_class", sorted(dataclass_types(), key=lambda c: c.__name__))
def test_configs_are_frozen_and_compare_by_value(config_class):
    first = config_class()
    assert first == config_class()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(first, dataclasses.fields(first)[0].name, None)


IMPORT = """
import sys, time
start = time.process_time()
import clipjax.config
seconds = time.process_time() - start
heavy = {"jax", "flax", "optax", "numpy"} & set(sys.modules)
print(seconds, *heavy)
"""


@pytest.mark.slow
def test_importing_the_config_is_quick_and_needs_no_jax(make_child_env):
    """The best of a few, in processor time: other processes may take the core meanwhile."""
    tries = [
        subprocess.run(
            [sys.executable, "-c", IMPORT], env=make_child_env(), capture_output=True, text=True
        ).stdout.split()
        for _ in range(4)
    ]
    assert all(len(found) == 1 for found in tries), tries
    assert min(float(seconds) for (seconds,) in tries) < 0.3


def test_a_field_named_like_a_keyword_loses_its_underscore_outside():
    config = TrainConfig(init=InitConfig(from_="hf:org/name"))
    saved = to_json_dict(config)
    assert saved["init"]["from"] == "hf:org/name"
    assert "from_" not in saved["init"]
    assert from_config_dict(TrainConfig, json.loads(json.dumps(saved))) == config
    assert from_config_dict(TrainConfig, to_config_dict(config)) == config
    with pytest.raises(UsageError, match=r"config\.init\.form: no such field.*'from'"):
        from_config_dict(TrainConfig, {"init": {"form": "x"}})
