"""Published models at their own size, drawn by name, against ours; prints the README's table.

bash launch/test.sh --parity -m full_size
"""

import dataclasses

import numpy as np
import pytest

from clipjax.config import PRESETS, BertConfig, TextConfig, ViTConfig

pytestmark = [pytest.mark.parity, pytest.mark.full_size]

OPEN_CLIP = [
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-L-14",
    "ViT-L-14-CLIPA",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2",
    "RN50",
    "convnext_base_w",
    "EVA02-B-16",
    "MobileCLIP2-L-14",
    "coca_ViT-B-32",
    "roberta-ViT-B-32",
    "xlm-roberta-base-ViT-B-32",
]
TRANSFORMERS = {
    "ViT-B-32-quickgelu": ("clip", "CLIPModel"),
    "ViT-B-16-SigLIP": ("siglip", "SiglipModel"),
    "ViT-B-16-SigLIP2-256": ("siglip2", "Siglip2Model"),
    "align-base": ("align", "AlignModel"),
}
# The reference is of float64 and ours of float32: of unit vectors, and of the cosines.
EMBEDS, GRADIENT = 2e-5, 1e-4


def make_tokens(text):
    """Two texts, of which one fills the context, ended and padded as the tower wants them."""
    length = text.context_length
    tokens = np.random.RandomState(3).randint(4, text.vocab_size - 2, (2, length))
    ends = (length // 3, length - 1)
    if isinstance(text, BertConfig):
        tokens[:, 0], end, pad = 0 if text.first_position else 101, 2, text.pad_id
    else:
        end, pad = text.eot_id, 0
    for row, place in enumerate(ends):
        tokens[row, place] = end
        tokens[row, place + 1 :] = pad
    return tokens.astype(np.int32)


@pytest.fixture
def open_clip_model(open_clip, transformers, monkeypatch):
    """Builds a model of open_clip without asking the hub for the config of its text tower."""

    def build(name):
        settings = dict(open_clip.get_model_config(name))
        text = PRESETS[name].text
        if isinstance(text, BertConfig):
            kind = "XLMRobertaConfig" if name.startswith("xlm") else "RobertaConfig"
            given = getattr(transformers, kind)(
                vocab_size=text.vocab_size,
                hidden_size=text.width,
                num_hidden_layers=text.depth,
                num_attention_heads=text.num_heads,
                intermediate_size=text.mlp_dim,
                max_position_embeddings=text.max_positions,
                type_vocab_size=text.token_types,
                layer_norm_eps=text.norm_eps,
                pad_token_id=text.pad_id,
            )
            monkeypatch.setattr(open_clip.hf_model.AutoConfig, "from_pretrained", lambda _: given)
            settings["text_cfg"] = {**settings["text_cfg"], "hf_model_pretrained": False}
        custom = settings.pop("custom_text", isinstance(text, BertConfig))
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        kind = open_clip.CoCa if "multimodal_cfg" in settings else kind
        return kind(**settings)

    return build


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip(name, towers, open_clip_model, capfd):
    config = PRESETS[name]
    model = filled(towers, open_clip_model(name))
    ids = towers.torch.from_numpy(make_tokens(config.text)).long()

    def forward(pixels):
        normal = towers.normalised(pixels, config)
        return model.encode_image(normal), model.encode_text(ids)

    check(Case(name, "open_clip", model, forward), towers, config, capfd)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name, towers, transformers, capfd):
    from clipjax.interchange.transformers import to_transformers

    torch, config, (model_type, kind) = towers.torch, PRESETS[name], TRANSFORMERS[name]
    settings = to_transformers(config, model_type=model_type)["config.json"]
    settings = getattr(transformers, kind.replace("Model", "Config")).from_dict(settings)
    model = filled(towers, getattr(transformers, kind)(settings))
    ids = torch.from_numpy(make_tokens(config.text)).long()
    more = {}
    if isinstance(config.text, BertConfig):
        more["attention_mask"] = (ids != config.text.pad_id).long()
    grid = config.image.image_size // 16
    if model_type == "siglip2":
        more["pixel_attention_mask"] = torch.ones(2, grid**2, dtype=torch.int32)
        more["spatial_shapes"] = torch.tensor([[grid, grid]] * 2)

    def forward(pixels):
        values = towers.normalised(pixels, config)
        if model_type == "siglip2":
            values = values.reshape(2, 3, grid, 16, grid, 16).permute(0, 2, 4, 3, 5, 1)
            values = values.reshape(2, grid**2, -1)
        out = model(pixel_values=values, input_ids=ids, **more)
        return out.image_embeds, out.text_embeds

    check(Case(name, kind, model, forward), towers, config, capfd, model_type=model_type)


def filled(towers, model):
    """Fills a model, but for what it computes itself, such as rotary positions."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model = towers.fill(model)
    for name, buffer in model.named_buffers():
        if not name.endswith(("running_mean", "running_var")):
            buffer.copy_(kept[name])
    return model


@dataclasses.dataclass
class Case:
    """A model of torch, and what takes pixels (0 to 255) to both embeddings."""

    name: str
    source: str
    model: object
    forward: object

    def scale_and_bias(self):
        if hasattr(self.model, "temperature"):
            return 1 / self.model.temperature, 0.0
        bias = getattr(self.model, "logit_bias", None)
        return self.model.logit_scale.exp(), 0.0 if bias is None else bias


def torch_figures(torch, case, images, names):
    """Unit embeddings, logits and gradients (pixels, then parameters by name), as NumPy arrays."""
    case.model.zero_grad()
    pixels = torch.from_numpy(images).to(next(case.model.parameters()).dtype).requires_grad_()
    image, text = (torch.nn.functional.normalize(e, dim=-1) for e in case.forward(pixels))
    scale, bias = case.scale_and_bias()
    logits = scale * image @ text.T + bias
    torch_loss(torch, logits).backward()
    parameters = dict(case.model.named_parameters())
    gradients = [pixels.grad, *(parameters[name].grad for name in names)]
    found = (image, text, logits, *gradients)
    return [x.detach().double().numpy() for x in found], float(scale.detach())


def check(case, towers, config, capfd, **options):
    """Compares and prints a row: embeddings, logits over their scale, gradients; both directions.

    The reference is of float64. Gradients are as near to it as torch's own of float32, to a factor
    of two: at full size these are up to 2e-3 away from it where the network has kinks (ReLU).
    """
    import jax
    import jax.numpy as jnp

    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.transfer import read_params, rolled, written
    from clipjax.interchange.which_preset import fitting_variant
    from clipjax.models import num_params, with_params

    form = "open_clip" if case.source == "open_clip" else "transformers"
    tensors = StateDict(case.model)
    if not options:
        found, options = fitting_variant(case.name, config, tensors)
        assert found == form
    layout, config = layout_of(form, config, **options), rolled(config)
    arrays = dict(read_params(layout, config, tensors))
    for name, array in written(layout, config, arrays):
        if name in tensors.shapes():
            np.testing.assert_array_equal(array, tensors.read(name), err_msg=name)
    params = {name: jnp.asarray(array) for name, array in arrays.items()}
    watched = watch(layout)
    names = [name for entry in watched.values() for name in entry.theirs]
    images, _ = towers.pixels(2, config.image.image_size)
    tokens = make_tokens(config.text)

    def loss(some, pixels, others):
        everything = {**others, **some}
        model = with_params(config, everything)
        image, text = model.encode_image(pixels), model.encode_text(jnp.asarray(tokens))
        logits = jnp.exp(everything["log_logit_scale"]) * image @ text.T
        logits = logits + everything.get("logit_bias", 0.0)
        rows, columns = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
        mean = -(jnp.diag(rows).mean() + jnp.diag(columns).mean()) / 2
        return mean, (image, text, logits)

    some = {name: params[name] for name in watched}
    inputs = some, jnp.asarray(images, jnp.float32), params
    step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True)).lower(*inputs)
    step = step.compile({"xla_backend_optimization_level": 3})
    (by_some, by_pixels), outputs = step(*inputs)
    ours = [*outputs, by_pixels]
    for name, entry in watched.items():
        ours += entry.write(np.asarray(by_some[name]))
    ours = [np.asarray(x, np.float64) for x in ours]  # JAX would round the reference

    exact, scale = torch_figures(towers.torch, case, images, names)
    case.model.float()
    rounded, _ = torch_figures(towers.torch, case, images, names)
    apart = max(np.abs(a - b).max() for a, b in zip(ours[:2], exact[:2], strict=True))
    of_logits = np.abs(ours[2] - exact[2]).max() / scale
    gradients = [relative(a, b) for a, b in zip(ours[3:], exact[3:], strict=True)]
    torchs = [relative(a, b) for a, b in zip(rounded[3:], exact[3:], strict=True)]
    with capfd.disabled():
        print(
            f"\n| {case.name} | {case.source} | {num_params(config) / 1e6:.2f} M | {apart:.1e} "
            f"| {of_logits:.1e} | {max(gradients):.1e} | {max(torchs):.1e} |"
        )
    assert apart <= EMBEDS
    assert of_logits <= EMBEDS
    for mine, theirs in zip(gradients, torchs, strict=True):
        assert mine <= max(GRADIENT, 2 * theirs)


def torch_loss(torch, logits):
    labels = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def relative(actual, expected):
    """Of the norms."""
    actual = np.asarray(actual, np.float64)
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def watch(layout):
    """The first matrix of each tower that is in no stack and stands alone: far from the loss."""
    found = {}
    for tower in ("image", "text"):
        own = (e for e in layout.entries if e.ours.startswith(tower) and e.piece is None)
        alone = (e for e in own if e.ours.endswith(("kernel", "embedding")))
        entry = next(e for e in alone if "/stack/" not in e.ours)
        found[entry.ours] = entry
    return found


class StateDict:
    """The tensors of a model of torch, float32."""

    source = "torch"

    def __init__(self, model):
        self._tensors = dict(model.state_dict())

    def shapes(self):
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name):
        return np.asarray(self._tensors[name].detach().float().numpy())


def test_the_list_has_every_family():
    kinds = {PRESETS[name].image.kind for name in [*OPEN_CLIP, *TRANSFORMERS]}
    assert kinds == {"vit", "resnet", "convnext", "eva", "efficientnet"}
    texts = {type(PRESETS[name].text) for name in [*OPEN_CLIP, *TRANSFORMERS]}
    assert texts == {TextConfig, BertConfig}
    pools = {PRESETS[n].image.pool for n in OPEN_CLIP if isinstance(PRESETS[n].image, ViTConfig)}
    assert {"cls", "map", "mean", "coca"} <= pools
