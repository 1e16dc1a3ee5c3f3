import numpy as np
import pytest

pytestmark = pytest.mark.parity


def unit_rows(seed):
    # RandomState: its numbers never change, by NumPy's policy.
    x = np.random.RandomState(seed).standard_normal((16, 8))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("scale", [5.0, 100 / 7])
def test_stored_losses_are_those_of_open_clip(torch, open_clip, reference, kind, scale):
    """Value and gradients of open_clip's losses, in float64."""
    images, texts = unit_rows(0), unit_rows(1)
    bias = -3.0 if kind == "sigmoid" else None
    leaves = {
        name: torch.tensor(np.float64(value), requires_grad=True)
        for name, value in (("images", images), ("texts", texts), ("scale", scale), ("bias", bias))
        if value is not None
    }
    losses = open_clip.loss
    loss_fn = losses.SigLipLoss() if kind == "sigmoid" else losses.ClipLoss()
    value = loss_fn(leaves["images"], leaves["texts"], leaves["scale"], leaves.get("bias"))
    value.backward()
    arrays = {"images": images, "texts": texts, "value": value.detach().numpy()}
    arrays |= {f"grad_{name}": leaf.grad.numpy() for name, leaf in leaves.items()}
    arrays |= {"scale": np.float64(scale)} | ({"bias": np.float64(bias)} if bias else {})
    reference(f"loss_{kind}_{scale:.0f}", arrays)
