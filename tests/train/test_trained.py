"""Steps of runs that train a part of their parameters."""

import dataclasses

import jax
import numpy as np
import pytest

import clipjax
from clipjax.config import LoraConfig, MeshConfig, ResNetConfig, UserError, to_json_dict
from clipjax.core.checkpoint import CheckpointReader
from clipjax.models.lora import chosen, merged
from clipjax.train.state import evaluated_params, trained_of

STEPS = 4
LORA = LoraConfig(rank=2, matrices=("*/attn/q", "*/attn/v", "*/mlp/*"))


@pytest.fixture(scope="module")
def with_optim(step_config, replace_in):
    """`step_config` with an image tower of two blocks, so that only one of them can be locked."""
    deeper = replace_in(step_config, "model.image.depth", 2)

    def make(*, scan=False, **fields):
        compute = dataclasses.replace(deeper.model.compute, scan_layers=scan)
        return dataclasses.replace(
            deeper,
            model=dataclasses.replace(deeper.model, compute=compute),
            optim=dataclasses.replace(deeper.optim, **fields),
        )

    return make


@pytest.fixture(scope="module")
def trainer_of(make_trainer):
    """Trainers by config: to compile a step takes longer than any test."""
    known = {}

    def get(config, mesh=None):
        key = repr((config, mesh))
        if key not in known:
            known[key] = make_trainer(config, mesh)
        return known[key]

    return get


@pytest.fixture(scope="module")
def steps(trainer_of):
    """(state before, state after, gradient norms) of a few steps."""

    def run(config, mesh=None):
        trainer = trainer_of(config, mesh)
        before = jax.tree.map(np.array, trainer.init())
        state, norms = trainer.init(), []
        for number in range(STEPS):
            state, metrics = trainer.step(state, trainer.batch(number))
            norms.append(float(metrics["train/grad_norm"]))
        assert trainer.compiled._cache_size() == 1
        return before, jax.tree.map(np.array, state), norms

    return run


def moments(state):
    (adam,) = [part for part in state.opt_state if hasattr(part, "mu")]
    assert adam.mu.keys() == adam.nu.keys()
    return adam.mu


def same(a, b):
    return a.tobytes() == b.tobytes()


def test_a_locked_tower_stays_bit_by_bit_and_has_no_moments(with_optim, steps, trainer_of):
    """LiT: the text tower learns, the image tower does not."""
    before, after, norms = steps(with_optim(lock_image=0))
    for name, old in before.params.items():
        assert same(old, after.params[name]) == name.startswith("image/"), name
    names = {n for n in before.params if not n.startswith("image/")}
    assert moments(after).keys() == after.ema.keys() == names
    assert min(norms) > 0
    free = trainer_of(with_optim()).like
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(free))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(before))
    image = sum(p.nbytes for n, p in before.params.items() if n.startswith("image/"))
    assert whole - size == 3 * image  # two moments and the average


def test_the_last_block_of_a_tower_learns(with_optim, steps):
    before, after, _ = steps(with_optim(lock_image=1))
    moved = {n for n, old in before.params.items() if not same(old, after.params[n])}
    moved = {name for name in moved if name.startswith("image/")}
    assert moved == {n for n in moments(after) if n.startswith("image/")}
    assert {n.split("/")[1] for n in moved} == {"blocks", "norm", "project"}
    assert {n.split("/")[3] for n in moved if "blocks" in n} == {"1"}


def test_of_a_scanned_stack_only_the_last_layer_learns(with_optim, steps):
    """Bit by bit, although the stack is one parameter; and like the unrolled tower."""
    before, after, _ = steps(with_optim(lock_image=1, scan=True))
    seen = 0
    for name, old in before.params.items():
        if name.startswith("image/blocks/stack/"):
            assert same(old[0], after.params[name][0]), name
            assert not same(old[1], after.params[name][1]), name
            assert not np.any(moments(after)[name][0]), name
            seen += 1
    assert seen == 12
    assert same(before.params["image/patchify/kernel"], after.params["image/patchify/kernel"])


def test_scanned_and_unrolled_towers_learn_the_same(with_optim, trainer_of):
    """From the same parameters; the norm of the gradient is that of what is trained."""
    first, norms, after = {}, [], {}
    for scan in (False, True):
        trainer = trainer_of(with_optim(lock_image=1, scan=scan))
        state = trainer.init()
        if scan:
            params = {n: stacked(first, n) for n in state.params}
            places = {n: p.sharding for n, p in state.params.items()}
            state = dataclasses.replace(state, params=jax.device_put(params, places))
        else:
            first = jax.tree.map(np.array, state.params)
        state, metrics = trainer.step(state, trainer.batch(0))
        norms.append(float(metrics["train/grad_norm"]))
        after[scan] = jax.tree.map(np.array, state.params)
    for name, found in after[True].items():
        np.testing.assert_allclose(found, stacked(after[False], name), atol=2e-6, err_msg=name)
    np.testing.assert_allclose(*norms, rtol=1e-5)


def stacked(params, name):
    if name in params:
        return params[name]
    layers = [name.replace("/stack/", f"/stack/{i}/") for i in range(2)]
    return np.stack([params[layer] for layer in layers if layer in params])


def test_frozen_patterns_and_a_scale_above_its_limit(with_optim, steps):
    """A frozen scale is not even clamped."""
    config = with_optim(freeze=("log_logit_scale", "text/embedding"))
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, max_logit_scale=2.0))
    before, after, _ = steps(config)
    still = {n for n, old in before.params.items() if same(old, after.params[n])}
    assert still == {"log_logit_scale", "text/embedding"}
    assert moments(after).keys() == before.params.keys() - still


def test_only_the_factors_learn(with_optim, steps):
    config = with_optim(lora=LORA)
    before, after, _ = steps(config)
    names = {f"lora/{m}/{f}" for m in chosen(config.model, config.optim.lora) for f in "ab"}
    assert len(names) == 2 * 4 * 3
    moved = {n for n, old in before.params.items() if not same(old, after.params[n])}
    assert moved == names == moments(after).keys() == after.ema.keys()


def test_what_is_evaluated_is_the_merged_average(with_optim, steps):
    config = with_optim(lora=LORA)
    after = jax.tree.map(jax.numpy.asarray, steps(config)[1])
    found = evaluated_params(config, after)
    assert found.keys() == {n for n in after.params if not n.startswith("lora/")}
    expected = merged({**after.params, **after.ema}, config.model, config.optim.lora)
    name = "image/blocks/stack/0/attn/qkv/kernel"
    assert same(np.asarray(found[name]), np.asarray(expected[name]))
    assert not same(np.asarray(found[name]), np.asarray(after.params[name]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"lock_image": 1}, {"lora": LoraConfig(rank=2)}], ids=["locked", "lora"]
)
def test_split_over_devices_the_same_is_learnt(with_optim, steps, mesh_222, fields):
    _, one, _ = steps(with_optim(**fields, scan=True))
    _, eight, _ = steps(with_optim(**fields, scan=True), mesh_222)
    for name, array in one.params.items():
        # Adam divides by the root of a second moment: where it is tiny, so are differences.
        np.testing.assert_allclose(eight.params[name], array, atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adafactor", "muon"])
def test_optimizers_of_whole_matrices_learn_the_same_on_eight_devices(
    with_optim, steps, mesh_222, kind
):
    """One step that compiles once, and a last block that is trained alone."""
    config = with_optim(kind=kind, lock_image=1, scan=True, moments_dtype="bfloat16")
    before, one, _ = steps(config)
    _, eight, _ = steps(config, mesh_222)
    for name, array in one.params.items():
        found = eight.params[name]
        if name.endswith("attn/qkv/bias"):
            # A key's bias shifts all logits of a query alike: its gradient is nothing but rounding,
            # which Adafactor, whose eps is 1e-30, scales up to whole updates.
            found, array = (np.delete(each, 1, axis=1) for each in (found, array))
        # As for AdamW: where a second moment is tiny, its differences are not.
        np.testing.assert_allclose(found, array, atol=2e-4, err_msg=name)
        learns = name.startswith(("image/blocks", "image/norm", "image/project", "text/", "log"))
        assert same(one.params[name], before.params[name]) != learns, name


def test_a_lock_and_a_pattern_together(with_optim, trainer_of):
    config = with_optim(lock_text=1, freeze=("!text/positions",))
    params = trainer_of(config).like.params
    which = trained_of(config, params)
    assert which["text/positions"] is True
    assert which["text/embedding"] is False
    assert which.keys() == params.keys()


@pytest.fixture(scope="module")
def resnet(with_optim):
    """Two blocks in the last stage, so that one of them is scanned or unrolled."""
    image = ResNetConfig(image_size=32, depths=(1, 1, 1, 2), width=8, num_heads=2)

    def make(*, scan=False, **fields):
        config = with_optim(scan=scan, ema_decay=0.0, **fields)
        return dataclasses.replace(config, model=dataclasses.replace(config.model, image=image))

    return make


@pytest.mark.slow
@pytest.mark.parametrize("lock", [None, 0, 1, 2])
def test_batch_norms_of_locked_blocks_keep_their_statistics(resnet, steps, lock):
    before, after, _ = steps(resnet(lock_image=lock))
    moved = {n for n, old in before.model_state.items() if not same(old, after.model_state[n])}
    learnt = {n for n, old in before.params.items() if not same(old, after.params[n])}
    norms = {n.rpartition("/")[0] for n in before.model_state}
    assert {n.rpartition("/")[0] for n in moved} == {n for n in norms if f"{n}/bias" in learnt}
    blocks = {"/".join(n.split("/")[1:-2]) for n in moved}
    last = "stages/3/blocks/stack/0"
    expected = {0: set(), 1: {last}, 2: {last, "stages/3/first"}}
    assert blocks == expected.get(lock, blocks)
    assert lock is not None or len(moved) == len(before.model_state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [{"lock_image": 0}, {"lock_text": 1}, {"lora": LoraConfig(rank=2)}],
    ids=["locked", "last block", "lora"],
)
def test_a_run_resumes_and_loads_as_it_was_trained(
    tiny_config, run_here, resumed_state, tmp_path, fields
):
    """Checkpoints, the model that is loaded from them, and the refusal of another choice."""
    config = dataclasses.replace(
        tiny_config, optim=dataclasses.replace(tiny_config.optim, **fields), mesh=MeshConfig()
    )
    run_here(config, tmp_path / "run")
    model = clipjax.load(tmp_path / "run")
    names = {n for n in model.params if not n.startswith("lora/")}
    assert names == model.params.keys()
    saved = CheckpointReader(tmp_path / "run" / "checkpoints").restore(
        12,
        {
            "params": {
                n: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=p.sharding)
                for n, p in model.params.items()
            }
        },
    )["params"]
    name = "text/blocks/stack/0/attn/qkv/kernel"
    assert not same(np.asarray(saved[name]), np.asarray(model.params[name]))
    if fields.get("lock_image") == 0:
        name = "image/blocks/stack/0/attn/qkv/kernel"
        assert same(np.asarray(saved[name]), np.asarray(model.params[name]))
    resumed_state(config, tmp_path / "run", 8)
    with pytest.raises(UserError, match="holds another model or optimizer state"):
        run_here(
            dataclasses.replace(tiny_config, num_steps=14, mesh=MeshConfig()), tmp_path / "run"
        )
    assert to_json_dict(config)["optim"].keys() >= fields.keys()
