"""What holds of every kind of optimizer, on the parameters of a real model and given gradients."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DualEncoderConfig,
    LoraConfig,
    MeshConfig,
    OptimConfig,
    TextConfig,
    TrainConfig,
    ViTConfig,
)
from clipjax.core.checkpoint import CheckpointWriter
from clipjax.core.mesh import make_mesh
from clipjax.core.partition import param_spec, tree_shardings
from clipjax.core.stacks import stacked
from clipjax.models import param_axes, param_shapes
from clipjax.optim import Parameters, make_optimizer, trained

KINDS = typing.get_args(typing.get_type_hints(OptimConfig)["kind"])
STEPS = 5
MODEL = DualEncoderConfig(
    image=ViTConfig(image_size=16, patch_size=8, width=64, depth=2, num_heads=2, mlp_dim=96),
    text=TextConfig(vocab_size=40, context_length=8, width=64, depth=2, num_heads=2, mlp_dim=96),
    embed_dim=32,
)
SCANNED = dataclasses.replace(MODEL, compute=ComputeConfig(scan_layers=True))


def settings(kind, **fields):
    """A large decay and rate, so that both are seen, and rates that differ between layers."""
    fields = {"clip_norm": None, "layer_decay_image": 0.5, "no_decay": ("*/1/*",)} | fields
    return OptimConfig(kind=kind, peak_learning_rate=0.01, warmup_steps=2, **fields)


def optimizer_for(model, config):
    parameters = Parameters(model=model, shapes=param_shapes(model), axes=param_axes(model))
    return make_optimizer(config, STEPS, parameters)


def random_tree(seed):
    """Parameters of every sort; the towers' blocks are alike, so one tower's will do."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0.1, 1, shape).astype(np.float32)
        for name, shape in param_shapes(MODEL).items()
        if not name.startswith("text/blocks")
    }


@functools.cache
def walk(model, config):
    """Parameters and state after a few steps on the same random gradients."""
    optimizer = optimizer_for(model, config)
    arrange = in_stacks if model == SCANNED else dict
    params = jax.tree.map(jnp.asarray, arrange(random_tree(0)))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for number in range(STEPS):
        params, state = step(params, state, arrange(random_tree(number + 1)))
    return params, state


def in_stacks(tree):
    return dict(stacked(tree.items()))


def moved(name, params):
    return np.abs(np.asarray(params[name]) - in_stacks(random_tree(0))[name]).max()


@pytest.mark.parametrize("kind", KINDS)
def test_stacked_layers_learn_like_single_ones(kind):
    """Sums in another order differ by some 1e-7 of an update; muon's iteration, whose slope at
    zero is 3.44, multiplies that by at most 3.44^5 = 482. An update is 0.01 times at most 10.
    """
    config = settings(kind)
    one = in_stacks(jax.tree.map(np.asarray, walk(MODEL, config)[0]))
    other, _ = walk(SCANNED, config)
    assert one.keys() == other.keys() < param_shapes(SCANNED).keys()
    error = 1e-7 * STEPS * 0.1 * (482 if kind == "muon" else 4)
    for name, expected in one.items():
        np.testing.assert_allclose(other[name], expected, rtol=1e-6, atol=error, err_msg=name)
        assert moved(name, other) > 100 * error, name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_only_first_moments_have_the_chosen_dtype(kind, dtype):
    optimizer = optimizer_for(SCANNED, settings(kind, moments_dtype=dtype))
    shapes = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in param_shapes(SCANNED).items()}
    state = jax.eval_shape(optimizer.init, shapes)
    first = ("mu", "ema", "trace")
    seen = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        fields = [key.name for key in path if hasattr(key, "name")]
        if "count" in fields:
            assert leaf.dtype == jnp.int32
        else:
            chosen = any(field in first for field in fields)
            assert leaf.dtype == (dtype if chosen else "float32"), path
            seen.add(chosen)
    assert True in seen


@pytest.mark.parametrize("kind", KINDS)
def test_sixteen_bit_moments_learn_about_the_same(kind):
    """A moment rounded to 8 bits changes an update by some 2^-8 of itself; lion's signs may flip.

    The sum of all updates turns by less than a tenth.
    """
    whole, _ = walk(SCANNED, settings(kind))
    half, _ = walk(SCANNED, settings(kind, moments_dtype="bfloat16"))
    start = in_stacks(random_tree(0))
    a, b = (
        np.concatenate([(np.asarray(p[n]) - start[n]).ravel() for n in start]).astype(np.float64)
        for p in (whole, half)
    )
    assert 0 < np.linalg.norm(a - b) < 0.1 * np.linalg.norm(a)


@pytest.mark.parametrize("kind", KINDS)
def test_split_over_devices_the_same_is_learnt(kind):
    """The state stays in its place; the tolerance is that of stacked layers."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    config, axes = settings(kind), param_axes(SCANNED)
    optimizer = optimizer_for(SCANNED, config)
    params = in_stacks(random_tree(0))
    shapes = jax.eval_shape(lambda: (params, optimizer.init(params)))
    places = tree_shardings(shapes, axes, mesh)
    split = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(places):
        name = str(getattr(path[-1], "key", ""))
        shape = dict(jax.tree_util.tree_leaves_with_path(shapes))[path].shape
        like_parameter = name in params and shape == params[name].shape
        wanted = param_spec(shape, axes[name], mesh) if like_parameter else jax.P()
        assert leaf.is_equivalent_to(jax.NamedSharding(mesh, wanted), len(shape)), path
        split += not leaf.is_fully_replicated
    assert split > 12
    expected, _ = walk(SCANNED, config)

    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(update, in_shardings=(*places, places[0]), out_shardings=places)
    params, state = jax.device_put((params, optimizer.init(params)), places)
    for number in range(STEPS):
        grads = jax.device_put(in_stacks(random_tree(number + 1)), places[0])
        params, state = step(params, state, grads)
    error = 1e-7 * STEPS * 0.1 * (482 if kind == "muon" else 10)
    for name, array in expected.items():
        np.testing.assert_allclose(params[name], array, rtol=1e-6, atol=error, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_has_no_moments(kind):
    """A locked image tower and LoRA: no byte of the state is of what is not trained."""
    shapes = param_shapes(SCANNED)
    config = settings(kind, lock_image=0)
    which = trained(config, SCANNED, shapes)

    def size(names):
        trees = {n: jax.ShapeDtypeStruct(shapes[n], jnp.float32) for n in names}
        state = jax.eval_shape(optimizer_for(SCANNED, config).init, trees)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))

    counters = size([])
    on, off = ([n for n in shapes if bool(which[n]) is wanted] for wanted in (True, False))
    assert size(shapes) - counters == size(on) + size(off) - 2 * counters > 0
    assert counters < 16
    assert {n.partition("/")[0] for n in on} == {"text", "log_logit_scale"}
    weights = 4 * sum(int(np.prod(shapes[n])) for n in on)
    most = {"adamw": 2, "lamb": 2, "muon": 1.5, "adafactor": 1.5}.get(kind, 1)
    assert size(on) - counters <= most * weights


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_holds_the_whole_state(kind, tmp_path):
    """Bit by bit, with moments of 16 bits."""
    _, state = walk(SCANNED, settings(kind, moments_dtype="bfloat16"))
    checkpoints = CheckpointWriter(tmp_path, CheckpointConfig(), {})
    checkpoints.save(STEPS, {"opt_state": state})
    checkpoints.wait()
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state)
    found = checkpoints.restore(STEPS, {"opt_state": like})["opt_state"]
    checkpoints.close()
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
        assert (one.dtype, np.asarray(one).tobytes()) == (two.dtype, np.asarray(two).tobytes())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_happens_to_what_has_no_gradient_but_decay(kind):
    """A parameter that decays shrinks by rate x decay, the others stay, whatever the kind.

    LAMB's decay is part of the update that its trust ratio scales: it shrinks by the rate.
    """
    config = settings(kind, layer_decay_image=1.0, weight_decay=0.5, schedule="constant")
    optimizer = optimizer_for(SCANNED, dataclasses.replace(config, warmup_steps=0, no_decay=()))
    chosen = ("image/blocks/stack/mlp/fc1/kernel", "image/blocks/stack/mlp/fc1/bias")
    chosen += ("text/embedding", "text/positions", "image/class_token", "log_logit_scale")
    params = {name: jnp.asarray(in_stacks(random_tree(0))[name]) for name in chosen}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    share = -0.01 * (1.0 if kind == "lamb" else 0.5)
    for name, update in updates.items():
        decays = name.rpartition("/")[2] in ("kernel", "embedding", "positions")
        np.testing.assert_allclose(update, share * decays * params[name], rtol=1e-6, err_msg=name)


def test_low_rank_factors_have_an_optimizer_of_any_kind(tiny_config):
    from clipjax.train.state import init_state, optimizer_of

    for kind in KINDS:
        config = dataclasses.replace(
            tiny_config, optim=settings(kind, lora=LoraConfig(rank=2), no_decay=())
        )
        assert isinstance(config, TrainConfig)
        state = jax.eval_shape(lambda config=config: init_state(config, optimizer_of(config)))
        names = {
            path[-1].key
            for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
            if hasattr(path[-1], "key")
        }
        assert names
        assert all(name.startswith("lora/") for name in names)
