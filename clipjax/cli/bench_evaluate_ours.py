"""The worker of `clipjax bench evaluate` that runs our evaluation."""

import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL

from clipjax.cli.bench_evaluate_data import CLASS_NAMES, SHARD, SPLIT, TEMPLATES
from clipjax.cli.bench_turns import Orders, serve
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


def prepare(options: dict[str, Any]) -> Orders:
    """Opens the model that the rival has written, and the shard that it reads."""
    folder = Path(options["folder"])
    found = open_pretrained(folder / "weights.safetensors", preset_name=options["preset"])
    tokenizer = make_tokenizer(
        TokenizerConfig(kind="clip", path=options["vocabulary"]), found.config.text, lambda: []
    )
    mesh = make_mesh(MeshConfig(), num_devices=1)
    encoder = Encoder(
        found.config,
        tokenizer,
        mesh,
        batch_size=options["batch_size"],
        threads=options["threads"],
    )
    encode = encoder.bind(found.params(mesh=mesh))
    side = found.config.image.image_size

    def pictures(count: int | None) -> Pictures:
        source = TarShards([str(folder / SPLIT / SHARD)], needs=("cls",))
        number = len(source) if count is None else count
        transform = EvaluationTransform.of(found.config)
        return Pictures(number, lambda index: source[index]["image"], transform)

    def images() -> dict[str, Any]:
        """Decodes, resizes and cuts all pictures into batches, which nothing is done with."""
        items, size = pictures(None), options["batch_size"]

        def fill(index: int, row: Any) -> None:
            if index < len(items):
                items.fill(index, row["x"])

        steps = -(-len(items) // size)
        batches = Batches(
            lambda step: step * size + np.arange(size),
            one_by_one(fill),
            {"x": ((side, side, 3), np.dtype(np.uint8))},
            stop_step=steps,
            threads=options["threads"],
            ahead=1,
        )
        for _ in range(steps):
            next(batches)
        batches.close()
        return {"images": len(items)}

    def pixels() -> dict[str, Any]:
        items, square = pictures(None), np.zeros((side, side, 3), np.uint8)
        found = []
        for index in range(len(items)):
            items.fill(index, square)
            found.append(zlib.crc32(square.tobytes()))
        return {"pixels": found}

    names = CLASS_NAMES[: options["classes"]]

    def classes() -> np.ndarray:
        prompts = Prompts(class_names=names, templates=TEMPLATES, source="")
        return class_embeds(encode, prompts)

    weights = np.random.default_rng(0).standard_normal((len(CLASS_NAMES), found.config.embed_dim))

    def model() -> dict[str, Any]:
        """Embeds some pictures, from their files on, and multiplies with class embeddings."""
        items = pictures(options["model_images"])
        logits = 100 * encode.images(items) @ weights.T.astype(np.float32)
        return {"images": len(logits)}

    def embeds() -> dict[str, Any]:
        if options["rival"] == "open_clip":
            return {"classes": classes().tolist()}
        return {"images": encode.images(pictures(options["batch_size"])).tolist()}

    def report() -> dict[str, Any]:
        return {
            "version": f"clipjax, jax {jax.__version__}, Pillow {PIL.__version__}, "
            f"simplejpeg {version('simplejpeg')}"
        }

    return {
        "images": images,
        "pixels": pixels,
        "model": model,
        "classes": lambda: {"images": len(classes())},
        "embeds": embeds,
        "report": report,
    }


if __name__ == "__main__":
    serve(prepare)
