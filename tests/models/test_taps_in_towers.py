"""Taps in every kind of tower: scanned, rematerialised, rounded, split between devices."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import (
    BertConfig,
    CocaDecoderConfig,
    ComputeConfig,
    ModernTextConfig,
    UserError,
)
from clipjax.core.partition import tree_shardings
from clipjax.core.stacks import stacked
from clipjax.models import Patches, param_axes, param_shapes, tapped, with_params
from clipjax.models.taps import in_tower

_NUMBERS = {}  # to trace the initialisers takes longer than most of the tests
MODULE = sys.modules[in_tower.__module__]


def model_of(kind, tiny, **compute):
    """A model, the tower that is looked at, and a path in its last but one block."""
    images = {
        "convnet": lambda: tiny.convnet(depths=(1, 3, 1)),
        "resnet": lambda: tiny.resnet(depths=(1, 3, 1, 1)),
        "convnext": lambda: tiny.convnext(depths=(1, 3, 1)),
    }
    image = images[kind]() if kind in images else tiny.vit(depth=3)
    return tiny.model(image, tiny.text(depth=3), compute=compute)


def numbers(config, tiny):
    """The same parameters, scanned or not."""
    plain = dataclasses.replace(config, compute=ComputeConfig())
    if plain not in _NUMBERS:
        _NUMBERS[plain] = tiny.params(plain)
    params = _NUMBERS[plain]
    if not config.compute.scan_layers:
        return params
    return {n: jnp.asarray(p) for n, p in stacked((n, np.asarray(p)) for n, p in params.items())}


def inputs_of(kind, config, tiny, count=4):
    if kind == "text":
        rng = np.random.default_rng(3)
        tokens = rng.integers(1, 18, (count, config.text.context_length))
        tokens[np.arange(count), 2 + np.arange(count) % 3] = config.text.eot_id
        return jnp.asarray(tokens, jnp.int32)
    return jnp.asarray(tiny.images(count, config.image.image_size))


def encode(kind, config):
    def run(params, inputs):
        model = with_params(config, params)
        return model.encode_text(inputs) if kind == "text" else model.encode_image(inputs)

    return run


def tower_of(kind):
    return "text" if kind == "text" else "image"


def read_as(kind, config, reductions, *args):
    """What each of the reductions reads of all paths of the tower."""

    @jax.jit
    def run(*args):
        read = [{f"{tower_of(kind)}/*": how} for how in reductions]
        return [tapped(encode(kind, config), read=one)(*args)[1] for one in read]

    return run(*args)


def without_taps(monkeypatch):
    """Takes every tap out of the model code."""
    plain = {
        "tap": lambda name, x: x,
        "within": lambda part, function: function,
        "in_tower": lambda name, tower: tower,
        "mark": lambda make: None,
        "leaving": lambda transform, function: transform(function),
        "scan_layers": lambda body, x, stack, numbers: jax.lax.scan(body, x, stack),
    }
    replaced = 0
    for name, module in list(sys.modules.items()):
        if name.startswith("clipjax.models.") and module is not MODULE:
            for word, function in plain.items():
                if getattr(module, word, None) is getattr(MODULE, word):
                    monkeypatch.setattr(module, word, function)
                    replaced += 1
    assert replaced > 20


def lowered(kind, config, tiny):
    params = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in param_shapes(config).items()}
    run = encode(kind, config)
    if config.compute.remat != "none":
        run = jax.grad(lambda params, x: encode(kind, config)(params, x).sum())
    return jax.jit(run).lower(params, inputs_of(kind, config, tiny))


@pytest.mark.parametrize(
    ("kind", "scan"),
    [
        ("vit", False),
        ("vit", True),
        ("text", False),
        ("text", True),
        ("convnet", False),
        ("resnet", False),
        ("resnet", True),
        ("convnext", True),
    ],
)
def test_closed_taps_leave_no_trace_in_the_program(kind, scan, tiny, monkeypatch):
    remats = ("none", "names") if kind in ("vit", "convnet") else ("none",)
    configs = [model_of(kind, tiny, scan_layers=scan, remat=remat) for remat in remats]
    opened = tapped(encode(kind, configs[0]), read={"*": "max"})
    jax.eval_shape(opened, numbers(configs[0], tiny), inputs_of(kind, configs[0], tiny))
    closed = [lowered(kind, config, tiny) for config in configs]
    with monkeypatch.context() as patch:
        without_taps(patch)
        expected = [lowered(kind, config, tiny) for config in configs]
    assert [one.as_text() for one in closed] == [one.as_text() for one in expected]
    if kind == "vit" and not scan:  # that of equal programs is equal
        compiled, bare = (
            re.sub(r", metadata=\{[^}]*\}", "", one.compile().as_text().partition("FileNames")[0])
            for one in (closed[0], expected[0])
        )
        assert compiled == bare


@pytest.mark.parametrize(
    ("kind", "remat"),
    [("vit", "full"), ("text", "none"), ("convnet", "full"), ("resnet", "names")],
)
def test_scanned_reads_are_unrolled_reads(kind, remat, tiny):
    """Each layer by its own name, with its own reduction."""
    tower = tower_of(kind)
    read = {f"{tower}/*": "max", f"{tower}/*blocks/1/*": "mean", "shared/embed": "all"}
    results = []
    for compute in ({}, {"scan_layers": True, "remat": remat}):
        config = model_of(kind, tiny, **compute)
        run = jax.jit(tapped(encode(kind, config), read=read))
        results.append(run(numbers(config, tiny), inputs_of(kind, config, tiny)))
    (embeds, reads), (scanned_embeds, scanned_reads) = results
    assert reads.keys() == scanned_reads.keys()
    np.testing.assert_allclose(embeds, scanned_embeds, atol=1e-5)
    np.testing.assert_array_equal(embeds, reads["shared/embed"])
    for path, array in reads.items():
        assert array.shape[0] == 4
        assert array.ndim == 2
        np.testing.assert_allclose(scanned_reads[path], array, rtol=1e-4, atol=1e-5, err_msg=path)
    # A largest activation of a ReLU may be the largest before it.
    found = [np.asarray(array).tobytes() for path, array in reads.items() if "pre" not in path]
    assert len(set(found)) == len(found)


def test_reads_of_a_text_tower_by_the_float64_definition(tiny, reference):
    config = model_of("text", tiny)
    params, tokens = numbers(config, tiny), inputs_of("text", config, tiny)
    how = ("all", "max", "mean", "eot")
    reads = dict(zip(how, read_as("text", config, how, params, tokens), strict=True))
    p = reference.within(params, "text/")
    activation = reference.activations[config.text.activation]
    for row, ids in enumerate(np.asarray(tokens)):
        end = list(ids).index(config.text.eot_id)
        x = p["embedding"][ids] + p["positions"]
        for layer in range(3):
            own, path = reference.within(p, f"blocks/stack/{layer}/"), f"text/blocks/{layer}"
            mixed = reference.attention(
                reference.layer_norm(x, own["ln_1/scale"], own["ln_1/bias"], 1e-5),
                reference.within(own, "attn/"),
                causal=True,
            )
            y = reference.layer_norm(x + mixed, own["ln_2/scale"], own["ln_2/bias"], 1e-5)
            y = activation(y @ own["mlp/fc1/kernel"] + own["mlp/fc1/bias"])
            x = reference.block(x, own, causal=True, activation=activation, eps=1e-5)
            for site, expected in (("mlp_act", y), ("out", x)):
                one = {name: read[f"{path}/{site}"][row] for name, read in reads.items()}
                np.testing.assert_allclose(one["all"], expected, rtol=1e-4, atol=1e-4)
                seen = expected[: end + 1]
                np.testing.assert_allclose(one["max"], seen.max(0), rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(one["mean"], seen.mean(0), rtol=1e-4, atol=1e-4)
                np.testing.assert_allclose(one["eot"], expected[end], rtol=1e-4, atol=1e-4)


def test_reads_of_a_vit_and_its_reductions(tiny, reference):
    config = model_of("vit", tiny)
    params, images = numbers(config, tiny), inputs_of("vit", config, tiny)
    own = reference.within(params, "image/blocks/stack/1/")
    how = ("all", "cls", "max", "mean")
    reads = dict(zip(how, read_as("vit", config, how, params, images), strict=True))
    activation = reference.activations[config.image.activation]
    for row in range(len(images)):
        before = reference.f64(reads["all"]["image/blocks/0/out"][row])
        after = reference.block(before, own, causal=False, activation=activation, eps=1e-5)
        np.testing.assert_allclose(
            reads["all"]["image/blocks/1/out"][row], after, rtol=1e-4, atol=1e-4
        )
    for path, whole in reads["all"].items():
        whole = np.asarray(whole)
        assert whole.shape[:2] == (4, 10)
        np.testing.assert_allclose(reads["cls"][path], whole[:, 0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reads["max"][path], whole.max(1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(reads["mean"][path], whole.mean(1), rtol=1e-5, atol=1e-6)


def test_reads_of_convolutions(tiny):
    config = model_of("convnet", tiny)
    params, images = numbers(config, tiny), inputs_of("convnet", config, tiny)
    reads, pooled = read_as("convnet", config, ("all", "max"), params, images)
    block = with_params(config, params).image.stages[1][1]
    before = reads["image/stages/1/blocks/0/out"]
    gelu = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    hidden = gelu(block.norm_2(block.conv_1(gelu(block.norm_1(before)))))
    np.testing.assert_allclose(reads["image/stages/1/blocks/1/act"], hidden, rtol=1e-5, atol=1e-5)
    after = before + block.conv_2(hidden)
    np.testing.assert_allclose(reads["image/stages/1/blocks/1/out"], after, rtol=1e-5, atol=1e-5)
    for path, array in pooled.items():
        most = np.asarray(reads[path]).max((1, 2))
        np.testing.assert_allclose(array, most, rtol=1e-5, atol=1e-6)


def test_reads_of_a_resnet(tiny):
    config = model_of("resnet", tiny)
    params, images = numbers(config, tiny), inputs_of("resnet", config, tiny)
    run = jax.jit(tapped(encode("resnet", config), read={"image/stages/1/*": "all"}))
    reads = run(params, images)[1]
    block = with_params(config, params).image.stages[1].blocks.stack[0]
    before, path = reads["image/stages/1/blocks/0/out"], "image/stages/1/blocks/1"
    one = jax.nn.relu(block.norm_1(block.conv_1(before), train=False))
    two = jax.nn.relu(block.norm_2(block.conv_2(one), train=False))
    out = jax.nn.relu(before + block.norm_3(block.conv_3(two), train=False))
    for name, expected in (("act_1", one), ("act_2", two), ("out", out)):
        np.testing.assert_allclose(reads[f"{path}/{name}"], expected, rtol=1e-4, atol=1e-4)


def changed(params, name, layer, change):
    """The parameters, those of one layer of a block changed."""
    stem, last = name
    unrolled, scanned = f"{stem}/{layer}/{last}", f"{stem}/{last}"
    if unrolled in params:
        return {**params, unrolled: change(params[unrolled])}
    return {**params, scanned: params[scanned].at[layer].set(change(params[scanned][layer]))}


@pytest.mark.parametrize(
    "compute", [{"remat": "names"}, {"scan_layers": True, "remat": "dots"}], ids=str
)
@pytest.mark.parametrize("kind", ["vit", "text"])
def test_writes_equal_changed_weights(kind, compute, tiny):
    """A unit that stands still is a bias; a step along the stream is one too."""
    config = model_of(kind, tiny, **compute)
    tower, units = tower_of(kind), [3, 7]
    params, inputs = numbers(config, tiny), inputs_of(kind, config, tiny)
    means, steer = jnp.asarray([0.4, -1.0]), jnp.linspace(-1, 1, 16)

    @jax.jit
    def run(params, inputs, means, steer):
        write = {
            f"{tower}/blocks/1/mlp_act": ("replace", means, units),
            f"{tower}/blocks/2/out": ("add", steer),
            f"{tower}/blocks/0/*": ("replace", lambda x: x),
        }
        read = {f"{tower}/blocks/1/mlp_act": "all", f"{tower}/blocks/0/mlp_act": "all"}
        return tapped(encode(kind, config), read=read, write=write)(params, inputs)

    plain = jax.jit(encode(kind, config))
    stem = f"{tower}/blocks/stack"
    kernel = numbers(model_of(kind, tiny), tiny)[f"{stem}/1/mlp/fc2/kernel"]
    rows = jnp.asarray(units)
    other = changed(params, (stem, "mlp/fc2/kernel"), 1, lambda k: k.at[rows].set(0))
    other = changed(other, (stem, "mlp/fc2/bias"), 1, lambda b: b + means @ kernel[rows])
    other = changed(other, (stem, "mlp/fc2/bias"), 2, lambda b: b + steer)
    written, reads = run(params, inputs, means, steer)
    np.testing.assert_allclose(written, plain(other, inputs), atol=2e-5)
    assert np.abs(written - plain(params, inputs)).max() > 1e-2
    held = np.asarray(reads[f"{tower}/blocks/1/mlp_act"])[..., units]
    np.testing.assert_array_equal(held, np.broadcast_to(np.float32(means), held.shape))
    free = np.asarray(reads[f"{tower}/blocks/0/mlp_act"])[..., units]
    assert free.std() > 1e-3


@pytest.mark.parametrize("compute", [{}, {"scan_layers": True, "remat": "full"}], ids=str)
@pytest.mark.parametrize("kind", ["vit", "text"])
def test_gradients_flow_through_writes_and_reads(kind, compute, tiny):
    """That of what is added to the stream, summed over tokens, is that of the bias before it.

    What is read of the last block goes through the head by hand as it does in the model.
    """
    config = model_of(kind, tiny, **compute)
    tower = tower_of(kind)
    params, inputs = numbers(config, tiny), inputs_of(kind, config, tiny)
    places = 10 if kind == "vit" else 6
    aim = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8)), jnp.float32)
    path, last = f"{tower}/blocks/1/out", f"{tower}/blocks/2/out"

    def through_model(params, step):
        write = {path: ("add", step)}
        embeds, _ = tapped(encode(kind, config), write=write)(params, inputs)
        return (embeds * aim).sum()

    def through_read(params):
        read = {last: "cls" if kind == "vit" else "eot"}
        _, reads = tapped(encode(kind, config), read=read)(params, inputs)
        model = getattr(with_params(config, params), tower)
        embeds = model.project(model.norm(reads[last]))
        return (embeds / jnp.linalg.norm(embeds, axis=1, keepdims=True) * aim).sum()

    step = jnp.zeros((4, places, 16))
    grads, step_grad = jax.jit(jax.grad(through_model, (0, 1)))(params, step)
    read_grads = jax.jit(jax.grad(through_read))(params)
    stem = f"{tower}/blocks/stack"
    name = f"{stem}/mlp/fc2/bias" if compute else f"{stem}/1/mlp/fc2/bias"
    bias = grads[name][1] if compute else grads[name]
    assert np.abs(bias).max() > 1e-3
    np.testing.assert_allclose(step_grad.sum((0, 1)), bias, rtol=1e-4, atol=1e-6)
    for name, gradient in read_grads.items():
        np.testing.assert_allclose(gradient, grads[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_bfloat16(scan, tiny):
    """Reductions are float32, what goes on is bfloat16, whatever is written."""
    config = model_of("vit", tiny, dtype="bfloat16", scan_layers=scan)
    params, images = numbers(config, tiny), inputs_of("vit", config, tiny)
    write = {"image/blocks/1/mlp_act": ("add", np.float32(0.1))}

    @jax.jit
    def run(params, images):
        return [
            tapped(encode("vit", config), read={"image/*": how}, write=write)(params, images)[1]
            for how in ("all", "max", "mean")
        ]

    whole, most, mean = run(params, images)
    for path, array in whole.items():
        assert array.dtype == jnp.bfloat16
        assert most[path].dtype == mean[path].dtype == jnp.float32
        array = np.asarray(array.astype(jnp.float32))
        # XLA may reduce what it has not rounded yet: a rounding is 2^-9 of a number.
        np.testing.assert_allclose(most[path], array.max(1), rtol=2**-8, atol=1e-3)
        np.testing.assert_allclose(mean[path], array.mean(1), rtol=2**-8, atol=0.02)


@pytest.mark.parametrize(("kind", "scan"), [("vit", True), ("text", False), ("convnext", True)])
def test_eight_devices_give_what_one_gives(kind, scan, tiny, mesh_222):
    config = model_of(kind, tiny, scan_layers=scan, remat="names")
    params, inputs = numbers(config, tiny), inputs_of(kind, config, tiny, 8)
    tower = tower_of(kind)
    path = f"{tower}/stages/1/blocks/1" if kind == "convnext" else f"{tower}/blocks/1"
    write = {f"{path}/mlp_act": ("replace", 0.5, [1, 3]), f"{path}/out": ("add", 0.2)}
    run = jax.jit(tapped(encode(kind, config), read={"*": "max"}, write=write))
    embeds, reads = run(params, inputs)
    split = jax.device_put(params, tree_shardings(params, param_axes(config), mesh_222))
    rows = jax.NamedSharding(mesh_222, jax.P(("data", "fsdp")))
    with jax.set_mesh(mesh_222):
        many, many_reads = run(split, jax.device_put(inputs, rows))
    np.testing.assert_allclose(many, embeds, atol=1e-5)
    assert reads.keys() == many_reads.keys()
    for name, array in reads.items():
        np.testing.assert_allclose(many_reads[name], array, rtol=1e-4, atol=2e-5, err_msg=name)


def test_what_is_padding_counts_in_no_reduction(tiny):
    """Whatever stands there: patches that fill a batch up, tokens behind the end."""
    text = dict(vocab_size=20, context_length=6, width=16, depth=1, num_heads=2, mlp_dim=24)
    tokens = jnp.asarray(tiny.tokens([3, 4, 19, 0, 0, 0], [5, 6, 7, 8, 19, 0]))
    for tower, real in (
        (tiny.text(depth=1, pad_id=0), 3),
        (tiny.text(depth=1, pool="class", pad_id=0), (0, 1, 2, 6)),
        (BertConfig(**text, max_positions=10, pad_id=0, first_position=0), 3),
        (ModernTextConfig(**text), 3),
        (tiny.text(depth=1, pool="last", causal=False), 6),
    ):
        config = tiny.model(text=tower)
        params = tiny.params(config)
        reads = read_as("text", config, ("all", "mean", "max"), params, tokens)
        real = list(range(real)) if isinstance(real, int) else list(real)
        for path, whole in reads[0].items():
            seen = np.asarray(whole)[0, real]
            np.testing.assert_allclose(reads[1][path][0], seen.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(reads[2][path][0], seen.max(0), rtol=1e-5, atol=1e-6)


def test_padding_of_patches_counts_in_no_reduction(tiny):
    config = tiny.model(tiny.vit(depth=1))
    params = tiny.params(config)
    values = np.random.default_rng(0).integers(0, 256, (2, 9, 48)).astype(np.uint8)
    rows, columns = np.indices((3, 3)).reshape(2, 1, 9).repeat(2, 1).astype(np.int16)
    square = Patches(
        values=values,
        positions=np.stack([rows, columns], -1),
        mask=np.ones((2, 9), bool),
        grid=np.full((2, 2), 3, np.int32),
    )
    grown = dataclasses.replace(
        square,
        values=np.pad(values, ((0, 0), (0, 3), (0, 0)), constant_values=200),
        positions=np.pad(square.positions, ((0, 0), (0, 3), (0, 0))),
        mask=np.pad(square.mask, ((0, 0), (0, 3))),
    )
    square, grown = jax.tree.map(jnp.asarray, (square, grown))
    both = [
        read_as("vit", config, ("mean", "max", "cls"), params, patches)
        for patches in (square, grown)
    ]
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), *both
    )


def test_special_tokens_where_a_tower_has_them(tiny):
    tokens = jnp.asarray(tiny.tokens([3, 4, 19, 0, 0, 0], [5, 6, 7, 8, 19, 0]))
    for tower, how, place in (
        (tiny.text(depth=1, pool="class"), "cls", 6),
        (tiny.text(depth=1, pool="last", causal=False), "eot", 5),
    ):
        config = tiny.model(text=tower)
        params = tiny.params(config)
        path = "text/blocks/0/out"
        whole, one = read_as("text", config, ("all", how), params, tokens)
        np.testing.assert_allclose(one[path], whole[path][:, place], rtol=1e-5, atol=1e-6)
    config = model_of("convnet", tiny)
    with pytest.raises(UserError, match=r"'image/stages/0/blocks/0/pre' has no 'cls' token"):
        read_as("convnet", config, ("cls",), tiny.params(config), jnp.asarray(tiny.images(1, 16)))


def test_a_reduction_may_be_a_function(tiny):
    config = model_of("vit", tiny, scan_layers=True)
    params, images = numbers(config, tiny), inputs_of("vit", config, tiny)
    run = tapped(encode("vit", config), read={"image/blocks/*/out": lambda x: (x > 0).sum(1)})
    _, reads = jax.jit(run)(params, images)
    assert list(reads) == [f"image/blocks/{layer}/out" for layer in range(3)]
    assert reads["image/blocks/2/out"].dtype == jnp.int32


def test_decoders_have_no_paths_of_the_towers(tiny):
    """Their blocks are those of the towers, with taps inside."""
    config = tiny.model(
        tiny.vit(pool="coca", pooler_queries=5, pooler_heads=2),
        tiny.text(pool="class", width=8, num_heads=2),
        decoder=CocaDecoderConfig(width=8, depth=1, num_heads=2, mlp_dim=12),
    )
    params = tiny.params(config)

    def run(params, images, tokens):
        return with_params(config, params).forward_captioning(images, tokens)

    read = {"image/*": "max", "text/*": "max"}
    shapes = jax.eval_shape(
        tapped(run, read=read), params, tiny.images(2), np.ones((2, 6), np.int32)
    )[1]
    towers = [f"{tower}/blocks/{n}/" for tower in ("image", "text") for n in range(2)]
    assert sorted(shapes) == sorted(
        f"{t}{site}" for t in towers for site in ("mlp_act", "mlp_pre", "out")
    )
