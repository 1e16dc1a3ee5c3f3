"""Tiny models with the same weights there (open_clip, transformers) and here."""

import json

import numpy as np
import pytest

pytestmark = pytest.mark.parity

WIDTH, DEPTH, HEADS, VOCAB, LENGTH, EMBED, SIDE, PATCH = 32, 2, 2, 64, 10, 24, 16, 8
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


def make_inputs():
    """Images, and texts of several lengths; one ends twice, one fills all its tokens."""
    rng = np.random.RandomState(7)
    images = rng.randint(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    tokens = rng.randint(1, VOCAB - 2, (5, LENGTH)).astype(np.int32)
    tokens[:, 0] = VOCAB - 2
    for row, end in enumerate((3, 1, 6, LENGTH - 1, 4)):
        tokens[row, end + 1 :] = 0
        tokens[row, end] = VOCAB - 1
    tokens[0, 5] = VOCAB - 1
    return images, tokens


def randomise(torch, model):
    """Gives every parameter numbers that float16 holds, gains and biases too; returns float64."""
    rng = np.random.RandomState(11)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            shape = tuple(parameter.shape)
            noise = rng.standard_normal(shape)
            if name == "logit_scale":
                value = 3.0
            elif name == "logit_bias":
                value = -10.0
            elif len(shape) >= 2:
                fan_in = np.prod(shape[1:])
                value = noise * fan_in**-0.5
            else:
                is_gain = name.endswith("weight")
                value = is_gain + 0.2 * noise
            half = np.float16(value)
            parameter.copy_(torch.from_numpy(np.array(half, np.float64)).reshape(shape))
    return model.double().eval()


def pixels_of(torch, images, mean, std):
    normalised = (np.float64(images) / 255 - mean) / std
    return torch.from_numpy(normalised.transpose(0, 3, 1, 2).copy())


def assert_ours_equal(config, params, images, tokens, embeds):
    """Every parameter has its name and shape here, and both towers say the same.

    The reference is computed in float64. In float32 a sum of up to 192 products is off by about
    sqrt(192) roundings of 6e-8; ten of them in a row by 2.6e-6 of a vector of length 1.
    """
    import jax
    import jax.numpy as jnp

    from clipjax.models import init_params, with_params

    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    expected = jax.eval_shape(lambda: init_params(config, 0))
    assert {n: p.shape for n, p in params.items()} == {n: p.shape for n, p in expected.items()}

    def encode(params, images, tokens):
        model = with_params(config, params)
        return model.encode_image(images), model.encode_text(tokens)

    mine = jax.jit(encode)(params, jnp.asarray(images), jnp.asarray(tokens))
    np.testing.assert_allclose(mine[0], embeds[0], rtol=0, atol=5e-6)
    np.testing.assert_allclose(mine[1], embeds[1], rtol=0, atol=5e-6)


def arrays_of(config, params, images, tokens, embeds):
    """What test_golden.py needs: the config, the weights, inputs and what comes of them."""
    from clipjax.config import to_json_dict

    halves = {f"params/{name}": np.float16(value) for name, value in params.items()}
    for name, value in halves.items():
        assert (np.float64(value) == params[name.removeprefix("params/")]).all(), name
    return {
        "config": np.array(json.dumps(to_json_dict(config))),
        "images": images,
        "tokens": tokens,
        "image_embeds": embeds[0],
        "text_embeds": embeds[1],
        **halves,
    }


def tiny_clip(activation, norm_eps=1e-5):
    from clipjax.config import DualEncoderConfig, TextConfig, ViTConfig

    tower = {
        "width": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "mlp_dim": 4 * WIDTH,
        "activation": activation,
        "norm_eps": norm_eps,
    }
    return DualEncoderConfig(
        image=ViTConfig(image_size=SIDE, patch_size=PATCH, **tower),
        text=TextConfig(vocab_size=VOCAB, context_length=LENGTH, **tower),
        embed_dim=EMBED,
    )


def linear(weight, *shape):
    """A torch weight [out, in] as our kernel [in, out], the axes split to `shape`."""
    return weight.T.reshape(shape or weight.T.shape)


def norm(source, there, here):
    return {f"{here}/scale": source[f"{there}.weight"], f"{here}/bias": source[f"{there}.bias"]}


def attention_of_heads(source, there, here, *, query, key, value, out):
    """Separate projections of transformers as our fused one."""
    head = WIDTH // HEADS
    names = [f"{there}.{name}" for name in (query, key, value)]
    kernels = [linear(source[f"{n}.weight"], WIDTH, HEADS, head) for n in names]
    return {
        f"{here}/qkv/kernel": np.stack(kernels, axis=1),
        f"{here}/qkv/bias": np.stack([source[f"{n}.bias"].reshape(HEADS, head) for n in names]),
        f"{here}/out/kernel": linear(source[f"{there}.{out}.weight"], HEADS, head, WIDTH),
        f"{here}/out/bias": source[f"{there}.{out}.bias"],
    }


def dense(source, there, here):
    return {
        f"{here}/kernel": linear(source[f"{there}.weight"]),
        f"{here}/bias": source[f"{there}.bias"],
    }


# ---- open_clip


def open_clip_params(source):
    """open_clip's names to ours."""
    head = WIDTH // HEADS
    params = {
        "log_logit_scale": source["logit_scale"],
        "image/patchify/kernel": source["visual.conv1.weight"].transpose(2, 3, 1, 0),
        "image/class_token": source["visual.class_embedding"],
        "image/positions": source["visual.positional_embedding"],
        **norm(source, "visual.ln_pre", "image/pre_norm"),
        **norm(source, "visual.ln_post", "image/norm"),
        "image/project/kernel": source["visual.proj"],
        "text/embedding": source["token_embedding.weight"],
        "text/positions": source["positional_embedding"],
        **norm(source, "ln_final", "text/norm"),
        "text/project/kernel": source["text_projection"],
    }
    for tower, prefix in (("image", "visual."), ("text", "")):
        for layer in range(DEPTH):
            there = f"{prefix}transformer.resblocks.{layer}"
            here = f"{tower}/blocks/stack/{layer}"
            weight, bias = (source[f"{there}.attn.in_proj_{kind}"] for kind in ("weight", "bias"))
            params |= {
                f"{here}/attn/qkv/kernel": linear(weight, WIDTH, 3, HEADS, head),
                f"{here}/attn/qkv/bias": bias.reshape(3, HEADS, head),
                f"{here}/attn/out/kernel": linear(
                    source[f"{there}.attn.out_proj.weight"], HEADS, head, WIDTH
                ),
                f"{here}/attn/out/bias": source[f"{there}.attn.out_proj.bias"],
                **norm(source, f"{there}.ln_1", f"{here}/ln_1"),
                **norm(source, f"{there}.ln_2", f"{here}/ln_2"),
                **dense(source, f"{there}.mlp.c_fc", f"{here}/mlp/fc1"),
                **dense(source, f"{there}.mlp.c_proj", f"{here}/mlp/fc2"),
            }
    return params


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_stored_clip_is_that_of_open_clip(torch, open_clip, reference, activation):
    model = randomise(
        torch,
        open_clip.CLIP(
            embed_dim=EMBED,
            vision_cfg={
                "image_size": SIDE,
                "patch_size": PATCH,
                "width": WIDTH,
                "layers": DEPTH,
                "head_width": WIDTH // HEADS,
            },
            text_cfg={
                "context_length": LENGTH,
                "vocab_size": VOCAB,
                "width": WIDTH,
                "heads": HEADS,
                "layers": DEPTH,
            },
            quick_gelu=activation == "quick_gelu",
        ),
    )
    images, tokens = make_inputs()
    with torch.no_grad():
        embeds = (
            model.encode_image(pixels_of(torch, images, PIXEL_MEAN, PIXEL_STD), normalize=True),
            model.encode_text(torch.from_numpy(tokens).long(), normalize=True),
        )
    embeds = [e.numpy() for e in embeds]
    config = tiny_clip(activation)
    params = open_clip_params({n: p.detach().numpy() for n, p in model.named_parameters()})
    assert_ours_equal(config, params, images, tokens, embeds)
    reference(f"clip_{activation}", arrays_of(config, params, images, tokens, embeds))


# ---- transformers


def transformers_block(source, there, here):
    return {
        **attention_of_heads(
            source,
            f"{there}.self_attn",
            f"{here}/attn",
            query="q_proj",
            key="k_proj",
            value="v_proj",
            out="out_proj",
        ),
        **norm(source, f"{there}.layer_norm1", f"{here}/ln_1"),
        **norm(source, f"{there}.layer_norm2", f"{here}/ln_2"),
        **dense(source, f"{there}.mlp.fc1", f"{here}/mlp/fc1"),
        **dense(source, f"{there}.mlp.fc2", f"{here}/mlp/fc2"),
    }


def transformers_common(source):
    """What CLIP and SigLIP share."""
    params = {
        "log_logit_scale": source["logit_scale"].reshape(()),
        "image/patchify/kernel": source["vision_model.embeddings.patch_embedding.weight"].transpose(
            2, 3, 1, 0
        ),
        "image/positions": source["vision_model.embeddings.position_embedding.weight"],
        **norm(source, "vision_model.post_layernorm", "image/norm"),
        "text/embedding": source["text_model.embeddings.token_embedding.weight"],
        "text/positions": source["text_model.embeddings.position_embedding.weight"],
        **norm(source, "text_model.final_layer_norm", "text/norm"),
    }
    for tower, there in (("image", "vision_model"), ("text", "text_model")):
        for layer in range(DEPTH):
            params |= transformers_block(
                source, f"{there}.encoder.layers.{layer}", f"{tower}/blocks/stack/{layer}"
            )
    return params


def transformers_towers(activation, eps):
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "hidden_act": activation,
        "layer_norm_eps": eps,
    }
    ends = {"bos_token_id": VOCAB - 2, "eos_token_id": VOCAB - 1, "pad_token_id": 0}
    text = {"vocab_size": VOCAB, "max_position_embeddings": LENGTH, **ends}
    return {
        "vision_config": {"image_size": SIDE, "patch_size": PATCH, **tower},
        "text_config": {**text, **tower},
    }


def transformers_embeds(torch, model, images, tokens, mean, std):
    with torch.no_grad():
        out = model(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=pixels_of(torch, images, mean, std),
        )
    return out.image_embeds.numpy(), out.text_embeds.numpy()


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_clip_is_that_of_transformers(torch, transformers, activation):
    settings = transformers.CLIPConfig(
        **transformers_towers(activation, 1e-5), projection_dim=EMBED
    )
    model = randomise(torch, transformers.CLIPModel(settings))
    images, tokens = make_inputs()
    embeds = transformers_embeds(torch, model, images, tokens, PIXEL_MEAN, PIXEL_STD)
    source = {n: p.detach().numpy() for n, p in model.named_parameters()}
    params = {
        **transformers_common(source),
        "image/class_token": source["vision_model.embeddings.class_embedding"],
        **norm(source, "vision_model.pre_layrnorm", "image/pre_norm"),
        "image/project/kernel": linear(source["visual_projection.weight"]),
        "text/project/kernel": linear(source["text_projection.weight"]),
    }
    assert_ours_equal(tiny_clip(activation), params, images, tokens, embeds)


def siglip_head(source, there, here):
    """Attention pooling; torch's own module has fused projections."""
    head = WIDTH // HEADS
    weight, bias = (source[f"{there}.attention.in_proj_{kind}"] for kind in ("weight", "bias"))
    out = f"{there}.attention.out_proj"
    return {
        f"{here}/probe": source[f"{there}.probe"][0],
        f"{here}/query/kernel": linear(weight[:WIDTH], WIDTH, HEADS, head),
        f"{here}/query/bias": bias[:WIDTH].reshape(HEADS, head),
        f"{here}/key_value/kernel": linear(weight[WIDTH:], WIDTH, 2, HEADS, head),
        f"{here}/key_value/bias": bias[WIDTH:].reshape(2, HEADS, head),
        f"{here}/out/kernel": linear(source[f"{out}.weight"], HEADS, head, WIDTH),
        f"{here}/out/bias": source[f"{out}.bias"],
        **norm(source, f"{there}.layernorm", f"{here}/norm"),
        **dense(source, f"{there}.mlp.fc1", f"{here}/mlp/fc1"),
        **dense(source, f"{there}.mlp.fc2", f"{here}/mlp/fc2"),
    }


def test_stored_siglip_is_that_of_transformers(torch, transformers, reference):
    """Attention pooling, no class token, visible padding, a biased projection, tanh GELU."""
    from clipjax.config import DualEncoderConfig, TextConfig, ViTConfig

    settings = transformers.SiglipConfig(**transformers_towers("gelu_pytorch_tanh", 1e-6))
    model = randomise(torch, transformers.SiglipModel(settings))
    images, tokens = make_inputs()
    half = (0.5, 0.5, 0.5)
    embeds = transformers_embeds(torch, model, images, tokens, half, half)
    source = {n: p.detach().numpy() for n, p in model.named_parameters()}
    tower = {
        "width": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "mlp_dim": 4 * WIDTH,
        "activation": "gelu_tanh",
        "norm_eps": 1e-6,
    }
    config = DualEncoderConfig(
        image=ViTConfig(
            image_size=SIDE,
            patch_size=PATCH,
            pool="map",
            pre_norm=False,
            patch_bias=True,
            projection=False,
            **tower,
        ),
        text=TextConfig(
            vocab_size=VOCAB,
            context_length=LENGTH,
            causal=False,
            pool="last",
            projection_bias=True,
            **tower,
        ),
        embed_dim=WIDTH,
        init_logit_bias=-10.0,
        pixel_mean=half,
        pixel_std=half,
    )
    params = {
        **transformers_common(source),
        "logit_bias": source["logit_bias"].reshape(()),
        "image/patchify/bias": source["vision_model.embeddings.patch_embedding.bias"],
        **siglip_head(source, "vision_model.head", "image/pool"),
        **dense(source, "text_model.head", "text/project"),
    }
    assert_ours_equal(config, params, images, tokens, embeds)
    reference("siglip", arrays_of(config, params, images, tokens, embeds))
