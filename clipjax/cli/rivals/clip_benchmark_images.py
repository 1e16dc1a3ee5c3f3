"""The worker of `clipjax bench evaluate` that runs CLIP_benchmark's loader and classification.

No part of the library, for the reason that `open_clip_step.py` gives.
"""

import contextlib
import io
import sys
import zlib
from pathlib import Path
from typing import Any

from clipjax.cli.bench_evaluate_data import SPLIT
from clipjax.cli.bench_turns import Orders, serve

_WORKERS = 4
"""Processes that load: the default of CLIP_benchmark's command."""


def prepare(options: dict[str, Any]) -> Orders:
    """Makes open_clip's model and its evaluation transform; a loader is made for every order."""
    sys.path.insert(0, str(Path(__file__).parent))
    from open_clip_classes import make_model  # type: ignore[import-not-found]

    model, versions = make_model(options)
    import PIL
    import torch
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics.zeroshot_classification import run_classification
    from open_clip.transform import image_transform

    side = model.visual.image_size[0]
    transform = image_transform(side, is_train=False)
    classifier = torch.randn(model.visual.output_dim, 50)

    def loader(batches: int | None = None) -> Any:
        dataset = build_dataset(
            "wds/photos", root=options["folder"], transform=transform, split=SPLIT
        ).batched(options["batch_size"])
        if batches is not None:
            dataset = dataset.slice(batches)
        return torch.utils.data.DataLoader(
            dataset, batch_size=None, shuffle=False, num_workers=_WORKERS
        )

    def images() -> dict[str, Any]:
        return {"images": sum(len(batch) for batch, _ in loader())}

    def pixels() -> dict[str, Any]:
        mean, std = (
            torch.tensor(numbers)[:, None, None]
            for numbers in (model.visual.image_mean, model.visual.image_std)
        )
        found = []
        for batch, _ in loader():
            bytes_of = (255 * (batch * std + mean)).round().clamp(0, 255).to(torch.uint8)
            squares = bytes_of.permute(0, 2, 3, 1).contiguous().numpy()
            found += [zlib.crc32(square.tobytes()) for square in squares]
        return {"pixels": found}

    def classify() -> dict[str, Any]:
        batches = options["model_images"] // options["batch_size"]
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of progress
            logits, _ = run_classification(model, classifier, loader(batches), "cpu", amp=False)
        return {"images": len(logits)}

    def embeds() -> dict[str, Any]:
        batch, _ = next(iter(loader()))
        with torch.no_grad():
            return {"images": model.encode_image(batch, normalize=True).tolist()}

    return {
        "images": images,
        "pixels": pixels,
        "model": classify,
        "embeds": embeds,
        "report": lambda: {"version": f"CLIP_benchmark, {versions}, Pillow {PIL.__version__}"},
    }


if __name__ == "__main__":
    serve(prepare)
