import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.parity

SIDE = 24
SIZES = [(37, 53), (61, 40), (24, 35), (17, 29), (25, 24), (48, 48), (50, 71), (24, 24), (30, 101)]


def picture(height, width, seed):
    """A gradient with noise: both smooth parts and sharp ones."""
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * y / height, 255 * x / width, 128 + 100 * np.sin(x / 5)], axis=-1)
    return np.clip(smooth + rng.randint(-60, 60, smooth.shape), 0, 255).astype(np.uint8)


def test_stored_crops_are_those_of_open_clip(torch, open_clip, reference):
    """The pixels that open_clip's evaluation transform gives, before they are normalised."""
    mean, std = [0.5, 0.4, 0.3], [0.25, 0.2, 0.5]
    transform = open_clip.image_transform(SIDE, is_train=False, mean=mean, std=std)
    arrays = {}
    for number, (height, width) in enumerate(SIZES):
        image = picture(height, width, number)
        out = transform(Image.fromarray(image)).double().permute(1, 2, 0).numpy()
        pixels = 255 * (out * std + mean)
        assert np.abs(pixels - np.round(pixels)).max() < 1e-3  # float32 of values up to 255
        arrays[f"image_{number}"] = image
        arrays[f"crop_{number}"] = np.round(pixels).astype(np.uint8)
    reference("preprocessing", arrays)
