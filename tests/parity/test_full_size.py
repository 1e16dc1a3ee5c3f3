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
        custom = settings.pop("custom_text", False)
        kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        kind = open_clip.CoCa if "multimodal_cfg" in settings else kind
        return kind(**settings)

    return build


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip(name, towers, open_clip_model, capfd):
    torch, config = towers.torch, PRESETS[name]
    model = towers.fill(open_clip_model(name))
    images, pixels = towers.pixels(2, config.image.image_size)
    tokens = make_tokens(config.text)
    normal = towers.normalised(pixels, config)
    embeds = model.encode_image(normal), model.encode_text(torch.from_numpy(tokens).long())
    bias = getattr(model, "logit_bias", None)
    case = Case(
        name, "open_clip", model, images, tokens, pixels, embeds, model.logit_scale.exp(), bias
    )
    case.check(towers, config, capfd)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name, towers, transformers, capfd):
    from clipjax.interchange.transformers import to_transformers

    torch, config, (model_type, kind) = towers.torch, PRESETS[name], TRANSFORMERS[name]
    settings = to_transformers(config, model_type=model_type)["config.json"]
    settings = getattr(transformers, kind.replace("Model", "Config")).from_dict(settings)
    model = towers.fill(getattr(transformers, kind)(settings))
    side = config.image.image_size
    images, pixels = towers.pixels(2, side)
    tokens = make_tokens(config.text)
    inputs = {"pixel_values": towers.normalised(pixels, config)}
    ids = torch.from_numpy(tokens).long()
    if model_type == "siglip2":
        patch = config.image.patch_size
        grid = side // patch
        flat = inputs["pixel_values"].reshape(2, 3, grid, patch, grid, patch)
        inputs["pixel_values"] = flat.permute(0, 2, 4, 3, 5, 1).reshape(2, grid**2, -1)
        inputs["pixel_attention_mask"] = torch.ones(2, grid**2, dtype=torch.int32)
        inputs["spatial_shapes"] = torch.tensor([[grid, grid]] * 2)
    if isinstance(config.text, BertConfig):
        inputs["attention_mask"] = (ids != config.text.pad_id).long()
    out = model(input_ids=ids, **inputs)
    scale = 1 / model.temperature if model_type == "align" else model.logit_scale.exp()
    bias = getattr(model, "logit_bias", None)
    embeds = out.image_embeds, out.text_embeds
    case = Case(name, kind, model, images, tokens, pixels, embeds, scale, bias)
    case.check(towers, config, capfd, model_type=model_type)


@dataclasses.dataclass
class Case:
    """A model of torch, what it was given and what it made of it."""

    name: str
    source: str
    model: object
    images: np.ndarray
    tokens: np.ndarray
    pixels: object
    embeds: tuple
    scale: object
    bias: object

    def check(self, towers, config, capfd, **options):
        """Compares and prints a row: embeddings, cosines with the bias, gradients, round trip."""
        import jax
        import jax.numpy as jnp

        from clipjax.interchange.formats import layout_of
        from clipjax.interchange.transfer import read_params, rolled, written
        from clipjax.interchange.which_preset import fitting_variant
        from clipjax.models import num_params, with_params

        torch = towers.torch
        form = "open_clip" if self.source == "open_clip" else "transformers"
        tensors = StateDict(self.model)
        if not options:
            found, options = fitting_variant(self.name, config, tensors)
            assert found == form
        layout, config = layout_of(form, config, **options), rolled(config)
        arrays = dict(read_params(layout, config, tensors))
        for name, array in written(layout, config, arrays):
            if name in tensors.shapes():
                np.testing.assert_array_equal(array, tensors.read(name), err_msg=name)
        params = {name: jnp.asarray(array) for name, array in arrays.items()}
        watched = watch(layout)

        image, text = (torch.nn.functional.normalize(e, dim=-1) for e in self.embeds)
        bias = 0.0 if self.bias is None else self.bias
        logits = self.scale * image @ text.T + bias
        torch_loss(torch, logits).backward()

        def loss(some, pixels, others):
            everything = {**others, **some}
            model = with_params(config, everything)
            image, text = model.encode_image(pixels), model.encode_text(jnp.asarray(self.tokens))
            logits = jnp.exp(everything["log_logit_scale"]) * image @ text.T
            logits = logits + everything.get("logit_bias", 0.0)
            rows, columns = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
            mean = -(jnp.diag(rows).mean() + jnp.diag(columns).mean()) / 2
            return mean, (image, text, logits)

        some = {name: params[name] for name in watched}
        step = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        inputs = some, jnp.asarray(self.images, jnp.float32), params
        step = step.lower(*inputs).compile({"xla_backend_optimization_level": 3})
        (by_some, by_pixels), outputs = step(*inputs)
        ours_image, ours_text, ours_logits = (np.asarray(x, np.float64) for x in outputs)
        apart = max(
            np.abs(ours_image - image.detach().numpy()).max(),
            np.abs(ours_text - text.detach().numpy()).max(),
        )
        scale = float(self.scale.detach())
        of_logits = np.abs(ours_logits - logits.detach().numpy()).max() / scale
        named = dict(self.model.named_parameters())
        gradients = [relative(by_pixels, self.pixels.grad.numpy())]
        for name, entry in watched.items():
            theirs = zip(entry.theirs, entry.write(np.asarray(by_some[name])), strict=True)
            gradients += [relative(array, named[key].grad.numpy()) for key, array in theirs]
        with capfd.disabled():
            print(
                f"\n| {self.name} | {self.source} | {num_params(config) / 1e6:.2f} M | {apart:.1e} "
                f"| {of_logits:.1e} | {max(gradients):.1e} |"
            )
        assert apart <= EMBEDS
        assert of_logits <= EMBEDS
        assert max(gradients) <= GRADIENT


def torch_loss(torch, logits):
    labels = torch.arange(len(logits))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2


def relative(actual, expected):
    """Of the norms: at a few of ten million ReLUs the two precisions are on different sides."""
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
