import json

import pytest

from clipjax.cli.configs import load_config
from clipjax.config import (
    ConvNetConfig,
    DualEncoderConfig,
    OptimConfig,
    TrainConfig,
    UsageError,
    to_json_dict,
)

PLAIN = """
from clipjax.config import TrainConfig, to_config_dict

def get_config(argument="12"):
    return to_config_dict(TrainConfig(num_steps=int(argument)))
"""


@pytest.fixture
def file(tmp_path):
    """Writes a config file; returns its path as text."""

    def write(content=PLAIN, name="run.py"):
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


def test_a_file_is_called_with_what_stands_behind_the_colon(file):
    assert load_config(file(), []) == TrainConfig(num_steps=12)
    assert load_config(file() + ":34", []) == TrainConfig(num_steps=34)


def test_the_saved_config_of_a_run_is_a_config_file(file, tiny_config):
    assert (
        load_config(file(json.dumps(to_json_dict(tiny_config)), "config.json"), []) == tiny_config
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config.optim.weight_decay=0.1"], OptimConfig(weight_decay=0.1)),
        (["--config.optim.weight_decay=1"], OptimConfig(weight_decay=1.0)),
        (["--config.optim.eps=1", "--config.optim.eps=2"], OptimConfig(eps=2.0)),
        (["--config.optim.clip_norm=None"], OptimConfig(clip_norm=None)),
        (
            ["--config.optim.clip_norm=None", "--config.optim.clip_norm=3"],
            OptimConfig(clip_norm=3.0),
        ),
        (
            ["--config.optim.clip_norm=3", "--config.optim.clip_norm=None"],
            OptimConfig(clip_norm=None),
        ),
        (["--config.optim.schedule=constant"], OptimConfig(schedule="constant")),
    ],
)
def test_flags_set_fields_and_the_last_one_wins(file, flags, expected):
    assert load_config(file(), flags).optim == expected


def test_flags_fill_empty_fields_with_their_own_type(file):
    flags = [
        "--config.model.init_logit_bias=-10",
        "--config.data.index_dir=/indexes",
        "--config.log.wandb_project=7",
        "--config.data.crop_scale=(0.5, 1)",
        "--config.model.text.causal=false",
    ]
    config = load_config(file(), flags)
    assert config.model.init_logit_bias == -10.0
    assert config.data.index_dir == "/indexes"
    assert config.log.wandb_project == "7"
    assert config.data.crop_scale == (0.5, 1.0)
    assert config.model.text.causal is False


def test_a_part_of_the_model_that_may_be_absent_can_be_left_out(file):
    base = """
from clipjax.config import *

def get_config():
    return to_config_dict(TrainConfig(model=DualEncoderConfig(matching=MatchingConfig())))
"""
    assert load_config(file(base), []).model.matching is not None
    assert load_config(file(base), ["--config.model.matching=None"]).model.matching is None


def test_every_field_of_every_section_can_be_set_by_a_flag(file, tiny_config):
    """Dataclass -> ConfigDict -> one flag a field -> dataclass."""

    def flags(values, path="--config"):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from flags(value, f"{path}.{name}")
            elif isinstance(value, list | tuple):
                yield f"{path}.{name}={tuple(value)}"
            else:
                yield f"{path}.{name}={value}"

    # The same shape with other values everywhere that matter: the defaults of each section.
    wanted = TrainConfig(model=DualEncoderConfig(image=ConvNetConfig()))
    base = """
from clipjax.config import *

def get_config():
    image = ConvNetConfig(image_size=64, widths=(8, 16), depths=(2, 2))
    return to_config_dict(TrainConfig(
        num_steps=3,
        model=DualEncoderConfig(image=image, init_logit_bias=1.0, embed_dim=8),
        optim=OptimConfig(clip_norm=None, schedule="constant", ema_decay=0.5),
        data=DataConfig(index_dir="/x", caption="json.a", crop_scale=(0.1, 0.2)),
        log=LogConfig(wandb_project="w", tensorboard=False),
    ))
"""
    assert load_config(file(base), []) != wanted
    assert load_config(file(base), list(flags(to_json_dict(wanted)))) == wanted


def test_a_field_of_a_task_can_be_set(config_file, tiny_config):
    config = load_config(str(config_file), ["--config.evals.tasks.pairs.caption=json.captions"])
    assert config.evals.tasks["pairs"].caption == "json.captions"
    assert config.evals.tasks["colours"] == tiny_config.evals.tasks["colours"]


MISTAKES = {
    "no value": (["--config.num_steps"], "--config.num_steps: write --config.num_steps=VALUE."),
    "a whole section": (["--config.mesh={'data': 1}"], "config.mesh={'data': 1}: is a section"),
    "a section that must be": (["--config.mesh=None"], "config.mesh: expected a section"),
    "an empty section": (["--config.mesh="], "config.mesh=: is a section"),
    "a field of a value": (["--config.seed.x=1"], "config.seed is a value and has no field 'x'."),
    "a misspelt section": (
        ["--config.optin.eps=1"],
        "config.optin: no such field. Did you mean 'optim'?",
    ),
    "a misspelt field": (
        ["--config.optim.beta3=1"],
        "config.optim.beta3: no such field. Did you mean 'beta",
    ),
    "nothing where something must be": (
        ["--config.num_steps=None"],
        "config.num_steps=None: expected int, found NoneType.",
    ),
    "a fraction for a whole number": (["--config.num_steps=1.5"], "flag --config.num_steps=1.5: "),
    "a word for a switch": (["--config.log.tensorboard=perhaps"], "flag --config.log.tensorboard="),
    "a word that is not a choice": (
        ["--config.optim.schedule=linaer"],
        "config.optim.schedule='linaer' is",
    ),
    "a tuple of another length": (
        ["--config.data.crop_scale=(1,2,3)"],
        "config.data.crop_scale=(1, 2, 3): ",
    ),
    "half a tuple": (["--config.data.crop_scale=(1,"], "flag --config.data.crop_scale=(1,: "),
    "what a dataclass rejects": (
        ["--config.data.caption=text"],
        "config.data: caption='text' must be",
    ),
    "a division by zero": (
        ["--config.model.image.patch_size=0"],
        "config.model.image: patch_size=0 must",
    ),
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_flag_is_one_line(file, flags, message):
    with pytest.raises(UsageError) as caught:
        load_config(file(), flags)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


BAD_FILES = {
    "one that raises": (
        "def get_config():\n    raise OSError('a\\nb')\n",
        r"run\.py:2: OSError: a$",
    ),
    "one that does not compile": ("def (:\n", r"run\.py.*: SyntaxError: "),
    "one without get_config": ("", r"AttributeError: .*get_config"),
    "one that returns something else": (
        "def get_config():\n    return {}\n",
        "must return to_config_dict",
    ),
    "one with a misspelt field": (
        PLAIN.replace("return to", "c = to") + "    c.num_stepz = 1\n    return c\n",
        "num_stepz",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_config_file_that_cannot_be_used_is_one_line(file, content, message):
    with pytest.raises(UsageError, match=message) as caught:
        load_config(file(content), [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", '{"num_stepz": 1}', "[]"])
def test_a_json_file_that_is_no_config_is_one_line(file, content):
    with pytest.raises(UsageError) as caught:
        load_config(file(content, "config.json"), [])
    assert "\n" not in str(caught.value)


def test_a_missing_file_gets_the_nearest_name_in_its_folder(file):
    path = file()
    with pytest.raises(UsageError, match=rf"rum\.py: no such file\. Did you mean '{path}'\?"):
        load_config(path.replace("run.py", "rum.py"), [])


def test_a_file_of_another_kind_is_refused(file):
    with pytest.raises(UsageError, match=r"expected a \.py or \.json file"):
        load_config(file("num_steps: 3", "run.yaml"), [])


def test_a_field_that_is_a_keyword_is_set_by_its_name(file):
    config = load_config(file(), ["--config.init.from=hf:org/a=b", "--config.init.preset=RN50"])
    assert (config.init.from_, config.init.preset) == ("hf:org/a=b", "RN50")
    with pytest.raises(UsageError, match=r"config\.init: preset='RN50' names the model of `from`"):
        load_config(file(), ["--config.init.preset=RN50"])
