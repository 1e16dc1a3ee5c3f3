"""The worker of `clipjax data bench` that runs open_clip's loader; started by its path.

Like its neighbours it is no part of the library: see `open_clip_step.py`.
"""

import sys
import types
from pathlib import Path
from typing import Any

from clipjax.cli.bench_turns import Orders, serve

# Runs end long before: a new epoch would restart the shards and read buffers anew.
_MANY_SAMPLES = 100_000_000
# The sample buffer is full when the first sample comes: of 5,000 it would read two tar members for
# each one that it gives until then, and need a gigabyte. Both only make it faster.
_SHUFFLE_SAMPLES = 600


def prepare(options: dict[str, Any]) -> Orders:
    """Makes open_clip's training loader with the transform of its ViT-B-32, and starts it."""
    import torch

    # Of the neighbour, which is found beside this file.
    sys.path.insert(0, str(Path(__file__).parent))
    from open_clip_step import import_torchvision  # type: ignore[import-not-found]

    import_torchvision(torch)
    import open_clip
    import open_clip_train.data
    import PIL
    import webdataset
    from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2

    open_clip_train.data._SAMPLE_SHUFFLE_SIZE = _SHUFFLE_SAMPLES
    open_clip_train.data._SAMPLE_SHUFFLE_INITIAL = _SHUFFLE_SAMPLES
    args = types.SimpleNamespace(
        train_data=options["paths"],
        train_num_samples=_MANY_SAMPLES,
        train_data_upsampling_factors=None,
        dataset_resampled=True,
        seed=0,
        batch_size=options["batch_size"],
        workers=options["workers"],
        world_size=1,
    )
    transform = image_transform_v2(
        PreprocessCfg(size=options["image_size"]), is_train=True, aug_cfg=AugmentationCfg()
    )
    torch.manual_seed(0)
    data = open_clip_train.data.get_wds_dataset(
        args, transform, is_train=True, tokenizer=open_clip.get_tokenizer("ViT-B-32")
    )
    batches = iter(data.dataloader)

    def take() -> dict[str, Any]:
        rows = 0
        for _ in range(options["batches"]):
            images, texts = next(batches)
            assert images.shape == (len(texts), 3, options["image_size"], options["image_size"])
            rows += len(images)
        return {"images": rows}

    def report() -> dict[str, Any]:
        return {
            "version": f"open_clip {open_clip.__version__}, webdataset {webdataset.__version__}, "
            f"torch {torch.__version__}, Pillow {PIL.__version__}",
        }

    return {"take": take, "report": report}


if __name__ == "__main__":
    serve(prepare)
