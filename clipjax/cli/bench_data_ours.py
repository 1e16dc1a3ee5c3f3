"""The worker of `clipjax data bench` that runs our loader, as the trainer does."""

import dataclasses
import functools
from importlib.metadata import version
from typing import Any

import cv2
import jax
import numpy as np

from clipjax.cli.bench_fidelity import PixelsOf, fidelity
from clipjax.cli.bench_turns import Orders, serve
from clipjax.config import DataConfig, TokenizerConfig, TrainConfig
from clipjax.config.presets import preset
from clipjax.data.opening import open_address
from clipjax.data.pipeline import Batches
from clipjax.data.tokenizers.byte import VOCAB_SIZE
from clipjax.data.training_images import MODES
from clipjax.train.device_crop import crop_and_resize
from clipjax.train.setup import TrainingData, open_data, open_source

_COMPARED = 200


def config_of(options: dict[str, Any]) -> TrainConfig:
    """Returns the config that the options of a worker describe."""
    model = preset("ViT-B-32")
    side = options["image_size"]
    # No model is made: one patch, so that any size will do.
    image = dataclasses.replace(model.image, image_size=side, patch_size=side)
    text = model.text
    if options["tokenizer"] == "byte":
        text = dataclasses.replace(text, vocab_size=VOCAB_SIZE)
    return TrainConfig(
        model=dataclasses.replace(model, image=image, text=text),
        data=DataConfig(
            root=options["root"],
            shards=options["shards"],
            global_batch_size=options["batch_size"],
            threads=options["workers"],
            image_mode=options["mode"],
        ),
        tokenizer=TokenizerConfig(kind=options["tokenizer"], path=options["vocabulary"]),
    )


def make_batches(config: TrainConfig) -> tuple[Batches, TrainingData]:
    """Returns the batches of a run on the host, from its first step, and their data."""
    data = open_data(config, open_source(config), saved_tokenizer=None)
    batches = Batches(
        data.order.samples, data.pairs.plan, data.pairs.row_spec, threads=config.data.threads
    )
    return batches, data


def pixels_of(config: TrainConfig) -> PixelsOf:
    """Returns the function from (file, 40 draws of the crop) to what the model sees."""
    side = config.model.image.image_size
    images = MODES[config.data.image_mode](config.data, config.model.image)
    on_device = jax.jit(functools.partial(crop_and_resize, side=side))

    def pixels(data: bytes, draws: np.ndarray) -> np.ndarray:
        row = {name: np.zeros(shape, kind) for name, (shape, kind) in images.row_spec.items()}
        images(data, draws, row, _ignore)
        if "canvas" not in row:
            return row["images"]
        return np.asarray(on_device(row["canvas"][None], row["boxes"][None])[0])

    return pixels


def _ignore(_: str) -> None:
    pass


def prepare(options: dict[str, Any]) -> Orders:
    """Opens the shards and begins to fill batches."""
    config = config_of(options)
    batches, data = make_batches(config)

    def take() -> dict[str, Any]:
        rows = sum(len(next(batches)["tokens"]) for _ in range(options["batches"]))
        return {"images": rows, "stages": data.pairs.clock.seconds()}

    def compare() -> dict[str, Any]:
        source = open_address(config.data.shards, config.data)
        places = np.linspace(0, len(source) - 1, min(len(source), _COMPARED)).astype(int)
        files = [bytes(source[place]["image"]) for place in places.tolist()]
        side = config.model.image.image_size
        return fidelity(files, pixels_of(config), config.data, image_size=side)

    def report() -> dict[str, Any]:
        return {
            "version": f"clipjax, OpenCV {cv2.__version__}, simplejpeg {version('simplejpeg')}",
            "bad_samples": data.pairs.bad_samples.total,
        }

    return {"take": take, "fidelity": compare, "report": report}


if __name__ == "__main__":
    serve(prepare)
