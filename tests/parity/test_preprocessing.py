import json

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


MODES_SIDE = 15
MODES_SIZES = [(29, 41), (44, 27), (15, 22), (9, 14), (15, 15), (33, 34), (4, 40)]
MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.5]

# name of a case: (fields of our transform, arguments of open_clip's)
OPEN_CLIP = {
    "crop_bilinear": ({"interpolation": "bilinear"}, {"interpolation": "bilinear"}),
    "squash": ({"resize": "squash"}, {"resize_mode": "squash"}),
    "squash_bilinear": (
        {"resize": "squash", "interpolation": "bilinear"},
        {"resize_mode": "squash", "interpolation": "bilinear"},
    ),
    "pad": ({"resize": "pad"}, {"resize_mode": "longest"}),
    "pad_bilinear": (
        {"resize": "pad", "interpolation": "bilinear", "pad_value": 120},
        {"resize_mode": "longest", "interpolation": "bilinear", "fill_color": 120},
    ),
}

# name of a case: (fields of our transform, processor of transformers, its arguments). The class
# without "Pil" works on tensors with torchvision and gives other bytes.
SQUARE = {"height": MODES_SIDE, "width": MODES_SIDE}
TRANSFORMERS = {
    "transformers_clip": (
        {"crop_offset": "down"},
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": MODES_SIDE}, "crop_size": SQUARE},
    ),
    "transformers_clip_bilinear": (
        {"crop_offset": "down", "interpolation": "bilinear"},
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": MODES_SIDE}, "crop_size": SQUARE, "resample": 2},
    ),
    "transformers_siglip": ({"resize": "squash"}, "SiglipImageProcessorPil", {"size": SQUARE}),
    "transformers_align": (
        {
            "resize": "squash",
            "interpolation": "bilinear",
            "resize_side": 18,
            "crop_offset": "down",
        },
        "EfficientNetImageProcessorPil",
        {
            "size": {"height": 18, "width": 18},
            "crop_size": SQUARE,
            "do_center_crop": True,
            "resample": 2,
            "include_top": False,
        },
    ),
}


def as_bytes(pixels):
    """Pixels that were scaled and normalised, as the bytes that they were."""
    assert np.abs(pixels - np.round(pixels)).max() < 1e-3
    return np.round(pixels).astype(np.uint8)


def test_stored_squares_are_those_of_open_clip_and_transformers(torch, open_clip, reference):
    """Every way to resize, with every filter, of sizes whose rounding differs."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.efficientnet.image_processing_pil_efficientnet import (
        EfficientNetImageProcessorPil,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    known = [CLIPImageProcessorPil, SiglipImageProcessorPil, EfficientNetImageProcessorPil]
    processors = {cls.__name__: cls for cls in known}
    images = {str(n): picture(*size, seed=n) for n, size in enumerate(MODES_SIZES)}
    arrays = {f"image_{n}": image for n, image in images.items()}
    for case, (fields, arguments) in OPEN_CLIP.items():
        arrays[f"fields_{case}"] = np.array(json.dumps(fields))
        transform = open_clip.image_transform(
            MODES_SIDE, is_train=False, mean=MEAN, std=STD, **arguments
        )
        for n, image in images.items():
            out = transform(Image.fromarray(image)).double().permute(1, 2, 0).numpy()
            arrays[f"{case}_{n}"] = as_bytes(255 * (out * STD + MEAN))
    for case, (fields, name, arguments) in TRANSFORMERS.items():
        arrays[f"fields_{case}"] = np.array(json.dumps(fields))
        processor = processors[name](do_rescale=False, do_normalize=False, **arguments)
        for n, image in images.items():
            (out,) = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
            arrays[f"{case}_{n}"] = as_bytes(np.moveaxis(np.asarray(out, np.float64), 0, -1))
    reference("preprocessing_modes", arrays)
