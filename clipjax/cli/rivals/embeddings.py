"""Embeds fixed inputs with open_clip or transformers: FORMAT FOLDER INPUTS.npz OUTPUTS.npz.

Started by its path: the library must not import torch, and this is no part of it (see
open_clip_step.py). Pictures are normalised here by what the folder itself says.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(format_name: str, folder: str, inputs: str, results: str) -> None:
    """Writes unit-length embeddings and logits."""
    import torch

    script = runpy.run_path(str(Path(__file__).with_name("open_clip_step.py")))
    script["import_torchvision"](torch)
    with np.load(inputs, allow_pickle=False) as stored:
        images = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).double() / 255
        tokens = torch.from_numpy(stored["tokens"]).long()
    load = {"open_clip": _open_clip, "transformers": _transformers}[format_name]
    mean, std, embed = load(torch, Path(folder))
    pixels = (images - _channels(torch, mean)) / _channels(torch, std)
    with torch.no_grad():
        image, text, scale, bias = embed(pixels.float(), tokens)
    image, text = (torch.nn.functional.normalize(part, dim=-1) for part in (image, text))
    np.savez(
        results,
        image_embeds=image.numpy(),
        text_embeds=text.numpy(),
        logits=(scale * image @ text.T + bias).numpy(),
    )


def _channels(torch: Any, numbers: Any) -> Any:
    return torch.tensor(numbers, dtype=torch.float64)[:, None, None]


def _open_clip(_: Any, folder: Path) -> tuple[Any, Any, Any]:
    import open_clip

    model = open_clip.create_model(f"local-dir:{folder.absolute()}", precision="fp32").eval()

    def embed(pixels: Any, tokens: Any) -> tuple[Any, Any, Any, Any]:
        bias = getattr(model, "logit_bias", None)
        scale = model.logit_scale.exp()
        text = model.encode_text(tokens)
        return model.encode_image(pixels), text, scale, 0.0 if bias is None else bias

    return model.visual.image_mean, model.visual.image_std, embed


def _transformers(torch: Any, folder: Path) -> tuple[Any, Any, Any]:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(str(folder), dtype=torch.float32).eval()
    prepare = json.loads((folder / "preprocessor_config.json").read_text())

    def embed(pixels: Any, tokens: Any) -> tuple[Any, Any, Any, Any]:
        found = model(input_ids=tokens, pixel_values=pixels)
        scale = getattr(model, "logit_scale", None)
        scale = 1 / model.temperature if scale is None else scale.exp()
        bias = getattr(model, "logit_bias", None)
        return found.image_embeds, found.text_embeds, scale, 0.0 if bias is None else bias

    return prepare["image_mean"], prepare["image_std"], embed


if __name__ == "__main__":
    main(*sys.argv[1:])
