"""open_clip's CLIP with its ModifiedResNet, against ours."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import DualEncoderConfig, ResNetConfig, TextConfig

pytestmark = pytest.mark.parity

SIDE, WIDTH, DEPTHS, VOCAB, LENGTH, EMBED = 64, 8, (2, 1, 2, 1), 64, 10, 24
EPS = 1e-3  # large, so that a norm that has another one is seen


@pytest.fixture(scope="module")
def config():
    return DualEncoderConfig(
        image=ResNetConfig(
            image_size=SIDE, width=WIDTH, depths=DEPTHS, num_heads=WIDTH // 2, batch_norm_eps=EPS
        ),
        text=TextConfig(
            vocab_size=VOCAB, context_length=LENGTH, width=32, depth=1, num_heads=2, mlp_dim=128
        ),
        embed_dim=EMBED,
    )


@pytest.fixture
def model(towers, open_clip):
    text = {"context_length": LENGTH, "vocab_size": VOCAB, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": SIDE, "layers": DEPTHS, "width": WIDTH, "patch_size": None}
    model = open_clip.CLIP(embed_dim=EMBED, vision_cfg=vision, text_cfg=text)
    for module in model.modules():
        if isinstance(module, towers.torch.nn.BatchNorm2d):
            module.eps = EPS
    return towers.fill(model)


def test_resnet(towers, model, config):
    images, pixels = towers.pixels(2, SIDE)
    tokens = np.random.RandomState(3).randint(1, VOCAB - 1, (2, LENGTH)).astype(np.int32)
    tokens[:, -1] = VOCAB - 1
    towers.store(
        "open_clip_resnet",
        config,
        model,
        format="open_clip",
        options={"custom_text": False},
        inputs={"images": images, "tokens": tokens},
        pixels=pixels,
        embeds=(
            model.encode_image(towers.normalised(pixels, config)),
            model.encode_text(towers.torch.from_numpy(tokens).long()),
        ),
        scale=model.logit_scale.exp(),
        grads=["visual.layer3.0.downsample.1.weight", "visual.attnpool.v_proj.weight"],
        every=3,
    )


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_training_moves_the_statistics_as_torch_does(towers, model, config, frozen, scan):
    """Three batches in training mode, then evaluation by what they left."""
    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.transfer import read_params, written
    from clipjax.models import model_state_of, with_params

    config = dataclasses.replace(
        config,
        image=dataclasses.replace(config.image, frozen_batch_norm=frozen),
        compute=dataclasses.replace(config.compute, scan_layers=scan),
    )
    layout = layout_of("open_clip", config, custom_text=False)
    arrays = dict(read_params(layout, config, StateDict(model)))

    @jax.jit
    def step(arrays, images):
        ours = with_params(config, arrays)
        embeds = ours.encode_image(images, jax.random.key(0))
        return embeds, {**arrays, **model_state_of(ours)}

    before = dict(arrays)
    model.train(not frozen)
    for batch in range(3):
        images, pixels = towers.pixels(5, SIDE, seed=batch)
        theirs = model.encode_image(towers.normalised(pixels, config), normalize=True)
        ours, arrays = step(arrays, jnp.asarray(images))
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=2e-5)
    model.eval()
    theirs = model.encode_image(towers.normalised(pixels, config), normalize=True)
    ours = with_params(config, arrays).encode_image(jnp.asarray(images))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=2e-5)
    state = model.state_dict()
    for name, array in written(layout, config, {n: np.asarray(a) for n, a in arrays.items()}):
        if name.endswith(("running_mean", "running_var")):
            np.testing.assert_allclose(array, state[name].numpy(), rtol=1e-5, atol=1e-6)
    moved = [name for name in arrays if np.any(arrays[name] != before[name])]
    assert (moved == []) == frozen


def test_what_is_written_is_the_state_dict(model, config):
    """Names, shapes and kinds, the counts of batches included: torch loads it strictly."""
    from clipjax.interchange.formats import layout_of
    from clipjax.interchange.transfer import read_params, written

    layout = layout_of("open_clip", config, custom_text=False)
    params = dict(read_params(layout, config, StateDict(model)))
    theirs = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    ours = dict(written(layout, config, params))
    assert {n: a.shape for n, a in ours.items()} == {n: a.shape for n, a in theirs.items()}
    assert {n for n, a in ours.items() if a.dtype == np.int64} == {
        n for n, a in theirs.items() if a.dtype == np.int64
    }


class StateDict:
    source = "a state dict"

    def __init__(self, model):
        self._tensors = {
            name: tensor.numpy().astype(np.float32) if tensor.is_floating_point() else tensor
            for name, tensor in model.state_dict().items()
        }

    def shapes(self):
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(self, name):
        return self._tensors[name]
