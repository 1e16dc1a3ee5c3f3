"""AlignModel and EfficientNetModel of transformers, against ours."""

import dataclasses
import json

import numpy as np
import pytest

from clipjax.config import BertConfig, DualEncoderConfig, EfficientNetConfig, preset

pytestmark = pytest.mark.parity

VOCAB, LENGTH, WIDTH = 60, 10, 32
# 24 pixels become maps of 12, 6, 3, 2 and 1: the stride of block 3 meets an odd side.
NETWORK = EfficientNetConfig(
    image_size=24, width_factor=0.25, depth_factor=0.3, symmetric_padding=(3,)
)
CONFIG = DualEncoderConfig(
    image=NETWORK,
    text=BertConfig(
        vocab_size=VOCAB,
        context_length=LENGTH,
        max_positions=LENGTH + 3,
        first_position=0,
        token_types=2,
        pad_id=0,
        width=WIDTH,
        depth=2,
        num_heads=2,
        mlp_dim=48,
        pool="first",
        unused_pooler=True,
        projection="linear_bias",
        norm_eps=1e-12,
    ),
    embed_dim=NETWORK.out_channels,
    init_logit_scale=1.0,
    exact_temperature=True,
    pixel_mean=(0.5, 0.5, 0.5),
    pixel_std=(0.5, 0.5, 0.5),
    resize="squash",
    resize_side=31,
    crop_offset="down",
    interpolation="bilinear",
)


def texts():
    tokens = np.random.RandomState(3).randint(4, VOCAB, (3, LENGTH)).astype(np.int32)
    tokens[:, 0] = 2
    for row, end in enumerate((3, 1, LENGTH - 1)):
        tokens[row, end] = 3
        tokens[row, end + 1 :] = 0
    return tokens


def align(transformers, config, **fields):
    """AlignModel from the files that we write."""
    from clipjax.interchange.transformers import align

    settings = align.write(config)["config.json"]
    return transformers.AlignModel(transformers.AlignConfig.from_dict({**settings, **fields}))


def test_align(towers, transformers):
    torch, tokens = towers.torch, texts()
    model = towers.fill(align(transformers, CONFIG))
    images, pixels = towers.pixels(3, CONFIG.image.image_size)
    ids = torch.from_numpy(tokens).long()
    out = model(
        pixel_values=towers.normalised(pixels, CONFIG),
        input_ids=ids,
        attention_mask=(ids != 0).long(),
    )
    towers.store(
        "transformers_align",
        CONFIG,
        model,
        format="transformers",
        options={"model_type": "align"},
        rounding="float32",  # the softmax of the text tower, whose exp differs from CPU to CPU
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(out.image_embeds, out.text_embeds),
        scale=1 / model.temperature,
        grads=[
            "vision_model.encoder.blocks.4.depthwise_conv.depthwise_conv.weight",
            "vision_model.encoder.blocks.6.squeeze_excite.reduce.bias",
            "text_model.encoder.layer.1.attention.self.value.weight",
        ],
    )


@pytest.mark.parametrize("pool", ["with pooler", "without"])
def test_transformers_loads_the_directory_that_we_write(pool, transformers, torch, tmp_path):
    """Every tensor found, none left over; and it says what we say."""
    import jax.numpy as jnp
    from safetensors.numpy import save_file

    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.transfer import written
    from clipjax.interchange.transformers import align
    from clipjax.models import param_shapes, with_params

    text = dataclasses.replace(CONFIG.text, unused_pooler=pool == "with pooler")
    config = dataclasses.replace(CONFIG, text=text)
    rng = np.random.default_rng(0)
    params = {
        name: np.asarray(0.2 * rng.normal(size=shape) + name.endswith(("scale", "variance")))
        .astype(np.float32)
        .reshape(shape)
        for name, shape in param_shapes(config).items()
    }
    params["log_logit_scale_rest"] *= 0
    for name, content in align.write(config).items():
        (tmp_path / name).write_text(json.dumps(content))
    tensors = dict(written(layout_of("transformers", config), config, params))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, report = transformers.AlignModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    picture = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    images = rng.integers(0, 256, (3, 31, 31, 3)).astype(np.uint8)
    pixels = picture(images=list(images), return_tensors="pt")["pixel_values"]
    ids = torch.from_numpy(texts()).long()
    with torch.inference_mode():
        out = model.eval()(
            pixel_values=pixels, input_ids=ids, attention_mask=(ids != 0).long()
        ).logits_per_image.numpy()
    ours = with_params(config, {name: jnp.asarray(array) for name, array in params.items()})
    image = ours.encode_image(jnp.asarray(images[:, 3:27, 3:27]))
    words = ours.encode_text(jnp.asarray(texts()))
    scale = np.exp(params["log_logit_scale"])
    np.testing.assert_allclose(out, scale * np.asarray(image @ words.T), atol=2e-5 * scale)


def test_a_preset_has_the_parameters_of_transformers_to_the_last_one(transformers, torch):
    from clipjax.models import num_params

    with torch.device("meta"):
        model = transformers.AlignModel(transformers.AlignConfig())
    assert num_params(preset("align-base")) == sum(p.numel() for p in model.parameters())


# Name of the preset: the paddings that transformers' published configs have.
PADDINGS = {"B1": [16], "B2": [5, 8, 16], "B5": [13, 27], "B7": [18]}


@pytest.mark.parametrize("name", ["B0", *PADDINGS, "L2"])
def test_an_efficientnet_has_the_parameters_of_transformers(name, transformers, torch):
    from clipjax.config.presets_text import EFFICIENTNETS
    from clipjax.models import param_shapes

    network = EFFICIENTNETS[name]
    assert list(network.symmetric_padding) == PADDINGS.get(name, [])
    with torch.device("meta"):
        model = transformers.EfficientNetModel(efficientnet_config(transformers, network))
    shapes = param_shapes(dataclasses.replace(CONFIG, image=network, resize_side=None))
    ours = sum(
        np.prod(shape)
        for name, shape in shapes.items()
        if name.startswith("image/") and not name.endswith(("/mean", "/variance", "project/kernel"))
    )
    assert ours == sum(p.numel() for p in model.parameters())


def efficientnet_config(transformers, network):
    return transformers.EfficientNetConfig(
        width_coefficient=network.width_factor,
        depth_coefficient=network.depth_factor,
        depthwise_padding=list(network.symmetric_padding),
        hidden_dim=network.out_channels,
        image_size=network.image_size,
    )


def test_the_last_convolution_is_that_of_efficientnet(towers, transformers):
    """With the names of ALIGN's image tower, and those of the head beside them."""
    import jax.numpy as jnp

    from clipjax.interchange.layout import Layout, batch_norm, conv
    from clipjax.interchange.transformers import align
    from clipjax.models import param_shapes, with_params

    torch = towers.torch
    network = dataclasses.replace(NETWORK, head=True)
    config = dataclasses.replace(CONFIG, image=network, embed_dim=network.out_channels)
    model = towers.fill(transformers.EfficientNetModel(efficientnet_config(transformers, network)))
    tensors = {f"vision_model.{n}": t.numpy() for n, t in model.state_dict().items()}
    layout = align.layout(CONFIG)
    entries = tuple(e for e in layout.entries if e.ours.startswith("image/"))
    entries += conv("image/head/conv", "vision_model.encoder.top_conv")
    entries += batch_norm("image/head/norm", "vision_model.encoder.top_bn")
    shapes = param_shapes(config)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    for entry in Layout(format="", entries=entries).entries:
        parts = [tensors.pop(name) for name in entry.theirs]
        arrays[entry.ours] = entry.read(parts, shapes[entry.ours]).astype(np.float32)
    assert all(name.endswith("num_batches_tracked") for name in tensors)
    _, pixels = towers.pixels(2, 24)
    normalised = towers.normalised(pixels, config).detach()
    with torch.inference_mode():
        expected = model(pixel_values=normalised).pooler_output.numpy()
    ours = with_params(config, {name: jnp.asarray(array) for name, array in arrays.items()}).image(
        jnp.asarray(normalised.permute(0, 2, 3, 1).numpy(), jnp.float32)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
