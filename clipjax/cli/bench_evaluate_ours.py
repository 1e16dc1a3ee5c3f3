"""The worker of `clipjax bench evaluate` that runs our evaluation."""

import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL

from clipjax.cli.bench_evaluate_data import CLASS_NAMES, SHARD, SPLIT, TEMPLATES
from clipjax.cli.bench_turns import Answer, Orders, serve
from clipjax.config import MeshConfig, TokenizerConfig
from clipjax.core.mesh import make_mesh
from clipjax.data.pipeline import Batches, one_by_one
from clipjax.data.resize import EvaluationTransform
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.tokenizers import make_tokenizer
from clipjax.evals.dataset import Pictures
from clipjax.evals.prompts import Prompts
from clipjax.evals.zeroshot import class_embeds
from clipjax.inference.encoder import Encoder
from clipjax.interchange.pretrained import open_pretrained


class Evaluation:
    """Our part of each measurement, with the weights that the rival has written."""

    def __init__(self, options: dict[str, Any]):
        self._options, self._folder = options, Path(options["folder"])
        found = open_pretrained(self._folder / "weights.safetensors", preset_name=options["preset"])
        self._config, mesh = found.config, make_mesh(MeshConfig(), num_devices=1)
        kind = TokenizerConfig(kind="clip", path=options["vocabulary"])
        encoder = Encoder(
            found.config,
            make_tokenizer(kind, found.config.text, list),
            mesh,
            batch_size=options["batch_size"],
            threads=options["threads"],
        )
        self._encode = encoder.bind(found.params(mesh=mesh))
        shape = (found.config.embed_dim, len(CLASS_NAMES))
        self._classifier = np.random.default_rng(0).standard_normal(shape, np.float32)

    def pictures(self, count: int | None = None) -> Pictures:
        """Returns the first pictures of the shard, opened anew; all of them by default."""
        source = TarShards([str(self._folder / SPLIT / SHARD)], needs=("cls",))
        number = len(source) if count is None else count
        transform = EvaluationTransform.of(self._config)
        return Pictures(number, lambda index: source[index]["image"], transform)

    def images(self) -> Answer:
        """Decodes, resizes and cuts all pictures into batches, which nothing is done with."""
        items, size, side = self.pictures(), self._options["batch_size"], self._side

        def fill(index: int, row: Any) -> None:
            if index < len(items):
                items.fill(index, row["x"])

        steps = -(-len(items) // size)
        batches = Batches(
            lambda step: step * size + np.arange(size),
            one_by_one(fill),
            {"x": ((side, side, 3), np.dtype(np.uint8))},
            stop_step=steps,
            threads=self._options["threads"],
            ahead=1,
        )
        for _ in range(steps):
            next(batches)
        batches.close()
        return {"images": len(items)}

    def pixels(self) -> Answer:
        """Returns a hash of what the model sees of each picture."""
        items, square = self.pictures(), np.zeros((self._side, self._side, 3), np.uint8)
        found = []
        for index in range(len(items)):
            items.fill(index, square)
            found.append(zlib.crc32(square.tobytes()))
        return {"pixels": found}

    def model(self) -> Answer:
        """Embeds some pictures, from their files on, and multiplies with class embeddings."""
        embeds = self._encode.images(self.pictures(self._options["model_images"]))
        return {"images": len(100 * embeds @ self._classifier)}

    def classes(self) -> Answer:
        """Embeds the classes."""
        return {"images": len(self._class_embeds())}

    def embeds(self) -> Answer:
        """Returns embeddings to compare."""
        if self._options["rival"] == "open_clip":
            return {"classes": self._class_embeds().tolist()}
        return {"images": self._encode.images(self.pictures(self._options["batch_size"])).tolist()}

    def report(self) -> Answer:
        """Returns versions."""
        return {
            "version": f"clipjax, jax {jax.__version__}, Pillow {PIL.__version__}, "
            f"simplejpeg {version('simplejpeg')}"
        }

    def _class_embeds(self) -> np.ndarray:
        names = CLASS_NAMES[: self._options["classes"]]
        prompts = Prompts(class_names=names, templates=TEMPLATES, source="")
        return class_embeds(self._encode, prompts)

    @property
    def _side(self) -> int:
        return self._config.image.image_size


def prepare(options: dict[str, Any]) -> Orders:
    """Opens the model, and says what each order does."""
    ours = Evaluation(options)
    orders = ("images", "pixels", "model", "classes", "embeds", "report")
    return {order: getattr(ours, order) for order in orders}


if __name__ == "__main__":
    serve(prepare)
