"""CLIPModel, SiglipModel and Siglip2Model, against ours: what they compute and what they load."""

import dataclasses
import json

import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, TextConfig, ViTConfig

pytestmark = pytest.mark.parity

SIDE, PATCH, WIDTH, HEADS, DEPTH, MLP, VOCAB, LENGTH, EMBED = 16, 8, 32, 2, 2, 48, 64, 10, 24
TOWER = {"width": WIDTH, "depth": DEPTH, "num_heads": HEADS, "mlp_dim": MLP}

CLIP = DualEncoderConfig(
    image=ViTConfig(image_size=SIDE, patch_size=PATCH, activation="quick_gelu", **TOWER),
    text=TextConfig(vocab_size=VOCAB, context_length=LENGTH, activation="quick_gelu", **TOWER),
    embed_dim=EMBED,
    crop_offset="down",
)
TANH = {"activation": "gelu_tanh", "norm_eps": 1e-6}
SIGLIP = DualEncoderConfig(
    image=ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        pool="map",
        pre_norm=False,
        patch_bias=True,
        projection=False,
        **TOWER,
        **TANH,
    ),
    # Narrower than the space, as in SigLIP 2's giant models.
    text=TextConfig(
        vocab_size=VOCAB,
        context_length=LENGTH,
        causal=False,
        pool="last",
        projection_bias=True,
        **{**TOWER, "width": 24},
        **TANH,
    ),
    embed_dim=WIDTH,
    init_logit_scale=10.0,
    init_logit_bias=-10.0,
    pixel_mean=(0.5, 0.5, 0.5),
    pixel_std=(0.5, 0.5, 0.5),
    resize="squash",
)
CONFIGS = {"clip": CLIP, "siglip": SIGLIP, "siglip2": SIGLIP}
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel", "siglip2": "Siglip2Model"}


def make_tokens():
    """Texts of several lengths; one ends twice, one fills all its tokens."""
    tokens = np.random.RandomState(3).randint(1, VOCAB - 2, (4, LENGTH)).astype(np.int32)
    tokens[:, 0] = VOCAB - 2
    for row, end in enumerate((3, 1, 6, LENGTH - 1)):
        tokens[row, end + 1 :] = 0
        tokens[row, end] = VOCAB - 1
    tokens[0, 5] = VOCAB - 1
    return tokens


def make_patches():
    """Four images of 2 x 2, 1 x 3, 3 x 2 and 2 x 3 patches of six.

    None is one patch wide: torch (2.13, on a CPU) resizes a table to one column without looking at
    its rows.
    """
    random = np.random.RandomState(5)
    grid = np.array([(2, 2), (1, 3), (3, 2), (2, 3)], np.int32)
    values = random.randint(0, 256, (4, 6, 3 * PATCH**2)).astype(np.uint8)
    places, mask = np.zeros((4, 6, 2), np.int16), np.zeros((4, 6), bool)
    for row, (rows, columns) in enumerate(grid):
        count = rows * columns
        places[row, :count] = np.argwhere(np.ones((rows, columns)))
        mask[row, :count] = True
        values[row, count:] = 0
    return {"values": np.float32(values), "positions": places, "mask": mask, "grid": grid}


def torch_model(transformers, model_type):
    """The class of transformers, from the files that we write."""
    from clipjax.interchange.transformers import to_transformers

    settings = to_transformers(CONFIGS[model_type], model_type=model_type)["config.json"]
    name = CLASSES[model_type]
    config = getattr(transformers, name.replace("Model", "Config")).from_dict(settings)
    return getattr(transformers, name)(config)


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
def test_square_images(towers, transformers, model_type):
    config = CONFIGS[model_type]
    model = towers.fill(torch_model(transformers, model_type))
    images, pixels = towers.pixels(4, SIDE)
    tokens = make_tokens()
    out = model(
        pixel_values=towers.normalised(pixels, config),
        input_ids=towers.torch.from_numpy(tokens).long(),
    )
    towers.store(
        f"transformers_{model_type}",
        config,
        model,
        format="transformers",
        options={"model_type": model_type},
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(out.image_embeds, out.text_embeds),
        scale=model.logit_scale.exp(),
        bias=getattr(model, "logit_bias", 0.0),
        grads=[
            "vision_model.encoder.layers.0.self_attn.k_proj.weight",
            "text_model.embeddings.token_embedding.weight",
            "vision_model.post_layernorm.weight",
        ],
    )


def test_images_of_any_shape(towers, transformers):
    torch, patches, tokens = towers.torch, make_patches(), make_tokens()
    model = towers.fill(torch_model(transformers, "siglip2"))
    pixels = torch.from_numpy(np.float64(patches["values"])).requires_grad_()
    out = model(
        pixel_values=pixels / 127.5 - 1,
        pixel_attention_mask=torch.from_numpy(patches["mask"].astype(np.int32)),
        spatial_shapes=torch.from_numpy(patches["grid"].astype(np.int64)),
        input_ids=torch.from_numpy(tokens).long(),
    )
    towers.store(
        "transformers_siglip2_naflex",
        SIGLIP,
        model,
        format="transformers",
        options={"model_type": "siglip2"},
        inputs={**{f"patches/{n}": array for n, array in patches.items()}, "tokens": tokens},
        pixels=pixels,
        embeds=(out.image_embeds, out.text_embeds),
        scale=model.logit_scale.exp(),
        bias=model.logit_bias,
        grads=[
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
            "text_model.head.weight",
        ],
        rounding="float32",  # on a CPU it resizes the table of positions in float32
    )


def saved(directory, model_type):
    """A model of ours with its files as transformers has them; returns its parameters."""
    import jax
    from safetensors.numpy import save_file

    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.transfer import written
    from clipjax.interchange.transformers import to_transformers
    from clipjax.models import init_params

    config = CONFIGS[model_type]
    params = init_params(config, 0)
    keys = iter(jax.random.split(jax.random.key(1), len(params)))
    params = {n: p + 0.1 * jax.random.normal(next(keys), p.shape) for n, p in params.items()}
    layout = layout_of("transformers", config, model_type=model_type)
    arrays = {n: np.asarray(p) for n, p in params.items()}
    save_file(dict(written(layout, config, arrays)), directory / "model.safetensors")
    for name, values in to_transformers(config, model_type=model_type).items():
        (directory / name).write_text(json.dumps(values))
    return params


def our_embeds(model_type, params, images, tokens):
    import jax.numpy as jnp

    from clipjax.models import with_params

    model = with_params(CONFIGS[model_type], params)
    return model.encode_image(images), model.encode_text(jnp.asarray(tokens))


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_what_we_write_loads_there(torch, transformers, tmp_path, model_type):
    """No key is missing or left over, and the embeddings are ours."""
    import jax.numpy as jnp

    from clipjax.models import Patches

    params, tokens = saved(tmp_path, model_type), make_tokens()
    model, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == CLASSES[model_type]
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.from_numpy(tokens).long()
    if model_type == "siglip2":
        patches = make_patches()
        images = Patches(**{name: jnp.asarray(array) for name, array in patches.items()})
        inputs = {
            "pixel_values": torch.from_numpy(patches["values"]) / 127.5 - 1,
            "pixel_attention_mask": torch.from_numpy(patches["mask"].astype(np.int32)),
            "spatial_shapes": torch.from_numpy(patches["grid"].astype(np.int64)),
        }
    else:
        images = np.random.RandomState(7).randint(0, 256, (4, SIDE, SIDE, 3)).astype(np.uint8)
        config = CONFIGS[model_type]
        normal = (np.float32(images) / 255 - config.pixel_mean) / config.pixel_std
        inputs = {"pixel_values": torch.from_numpy(np.float32(normal.transpose(0, 3, 1, 2)))}
        images = jnp.asarray(images)
    with torch.no_grad():
        out = model(input_ids=ids, **inputs)
    image, text = our_embeds(model_type, params, images, tokens)
    np.testing.assert_allclose(image, out.image_embeds.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(text, out.text_embeds.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_what_transformers_writes_loads_here(transformers, tmp_path, model_type):
    """Its own `save_pretrained`: config, names and shapes."""
    from safetensors import safe_open

    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.transformers import from_transformers
    from clipjax.models import param_shapes

    torch_model(transformers, model_type).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    config, options = from_transformers(settings, None)
    wanted = CONFIGS[model_type]
    if model_type == "siglip2":  # its default filter
        wanted = dataclasses.replace(wanted, interpolation="bilinear")
    assert (config, options) == (wanted, {"model_type": model_type})
    layout, ours = layout_of("transformers", config, **options), param_shapes(config)
    with safe_open(tmp_path / "model.safetensors", "numpy") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    entries = [(name, entry) for entry in layout.entries for name in entry.theirs]
    assert found == {name: entry.their_shape(ours[entry.ours]) for name, entry in entries}


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_defaults_are_those_of_transformers(transformers, model_type):
    """A config.json with nothing in it."""
    from clipjax.interchange.transformers import from_transformers

    theirs = getattr(transformers, CLASSES[model_type].replace("Model", "Config"))()
    whole = from_transformers(json.loads(theirs.to_json_string(use_diff=False)), None)
    assert from_transformers({"model_type": model_type}, None) == whole


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_the_image_processor_is_the_one_that_we_write(transformers, tmp_path, model_type):
    from PIL import Image

    from clipjax.interchange.transformers import from_transformers, to_transformers

    files = to_transformers(CONFIGS[model_type], model_type=model_type)
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor).__name__.startswith(CLASSES[model_type].replace("Model", ""))
    picture = Image.fromarray(np.full((40, 60, 3), 255, np.uint8))
    pixels = np.asarray(processor(picture, return_tensors="np")["pixel_values"])
    # White, by channel, and in shape what the tower takes: 4 patches are the most there are.
    config = CONFIGS[model_type]
    white = (1 - np.array(config.pixel_mean)) / np.array(config.pixel_std)
    if model_type == "siglip2":
        assert pixels.shape == (1, 4, 3 * PATCH**2)
        np.testing.assert_allclose(pixels[0, 0].reshape(-1, 3), [white] * PATCH**2, rtol=1e-5)
    else:
        assert pixels.shape == (1, 3, SIDE, SIDE)
        np.testing.assert_allclose(pixels[0, :, 3, 3], white, rtol=1e-5)
    own = json.loads(processor.to_json_string())
    again, _ = from_transformers(files["config.json"], own)
    assert again == from_transformers(files["config.json"], files["preprocessor_config.json"])[0]


@pytest.mark.parametrize("size", [(41, 60), (60, 41), (16, 16), (9, 7), (300, 33)])
@pytest.mark.parametrize("fields", [{}, {"resize_side": 19}, {"resize": "squash"}])
def test_every_byte_of_a_picture_is_the_same(transformers, tmp_path, size, fields):
    """With Pillow there; from the file that we write, and with the config that we read back."""
    from PIL import Image

    from clipjax.data.resize import EvaluationTransform
    from clipjax.interchange.transformers import from_transformers, to_transformers

    files = to_transformers(dataclasses.replace(CLIP, **fields))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(files["preprocessor_config.json"])
    )
    config, _ = from_transformers(files["config.json"], files["preprocessor_config.json"])
    random = np.random.RandomState(0)
    picture = random.randint(0, 256, (*size, 3)).astype(np.uint8)
    processor = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    theirs = processor(
        Image.fromarray(picture), do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"][0]
    ours = np.empty((SIDE, SIDE, 3), np.uint8)
    EvaluationTransform.of(config)(picture, ours)
    np.testing.assert_array_equal(ours, np.transpose(theirs, (1, 2, 0)))
