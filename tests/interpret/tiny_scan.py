"""A tiny model and stimuli of noise: `python tiny_scan.py OUT DEVICES [KEY=VALUE ...]` scans it."""

import sys
import time

import jax
import numpy as np

from clipjax.config import DualEncoderConfig, MeshConfig, TextConfig, ViTConfig
from clipjax.core.mesh import make_mesh, replicated
from clipjax.data.concepts import Concept
from clipjax.data.resize import EvaluationTransform
from clipjax.data.tokenizers.byte import ByteTokenizer
from clipjax.inference.encoder import Encoder
from clipjax.inference.load import Model
from clipjax.interpret.scanning import scan
from clipjax.interpret.stimuli import stimuli_of
from clipjax.interpret.stimulus_facets import PictureFacet, Shown, TextFacet
from clipjax.models import init_params

CONFIG = DualEncoderConfig(
    image=ViTConfig(depth=2, width=16, num_heads=1, mlp_dim=20, image_size=16, patch_size=8),
    text=TextConfig(depth=1, width=16, num_heads=1, mlp_dim=24, context_length=24, vocab_size=258),
    embed_dim=11,
)
CONCEPTS = (Concept("red", "red", ("red",)), Concept("dark", "dark", ("dark",)))


def tiny_model(devices=1, seed=0, change=None):
    """A model on some devices; `change` is what happens to its parameters."""
    mesh = make_mesh(MeshConfig(fsdp=1), num_devices=devices)
    params = jax.jit(lambda: init_params(CONFIG, seed), out_shardings=replicated(mesh))()
    params = dict(params) if change is None else change(dict(params))
    tokenizer = ByteTokenizer(context_length=24, lowercase=True)
    encoder = Encoder(CONFIG, tokenizer, mesh)
    return Model(CONFIG, params, tokenizer, encoder, 0, f"tiny {seed} {change is None}")


def pictures(name="photo", rows=150, views=1, seed=0, read=None):
    """Pictures of noise, red and dark ones among them."""
    rng = np.random.default_rng([seed, rows, views])
    labels = np.stack([np.arange(rows) % 3 == 0, np.arange(rows) % 4 == 0], axis=1)
    pixels = rng.integers(0, 256, (rows, views, 16, 16, 3), np.uint8)
    pixels[labels[:, 0], ..., 0] = 255
    pixels[labels[:, 1]] //= 4
    flat = pixels.reshape(-1, 16, 16, 3)
    return PictureFacet(_shown(name, labels, views), read or flat.__getitem__, _TRANSFORM, 16)


def captions(rows=150, views=2):
    """Captions that name what `pictures` shows."""
    labels = np.stack([np.arange(rows) % 3 == 0, np.arange(rows) % 4 == 0], axis=1)
    texts = [
        f"{'a red' if red else 'a'} {'dark' if dark else 'thing'} {view} of {row}"
        for row, (red, dark) in enumerate(labels)
        for view in range(views)
    ]
    return TextFacet(_shown("caption", labels, views), texts)


def tiny_stimuli(rows=150, slow=0):
    """One facet of one view, one of three views, captions of two; slow: ms to read a picture."""
    words = pictures("word", rows, 3)
    fill = words.fill

    def fill_slowly(sample, out):
        time.sleep(slow / 1000)
        fill(sample, out)

    words.fill = fill_slowly
    return stimuli_of("noise", [pictures(rows=rows), words, captions(rows)], CONCEPTS)


_TRANSFORM = EvaluationTransform.of(CONFIG)


def _shown(name, labels, views):
    rows = len(labels)
    return Shown(
        name=name,
        stimuli=tuple(f"s{row}" for row in range(rows)),
        texts=[(f"stimulus {row}",) for row in range(rows)],
        owner=np.repeat(np.arange(rows), views),
        labels=labels,
    )


if __name__ == "__main__":
    options = {key: int(value) for key, _, value in (one.partition("=") for one in sys.argv[3:])}
    shown = tiny_stimuli(options.pop("rows"), options.pop("slow"))
    scan(tiny_model(int(sys.argv[2])), shown, out=sys.argv[1], **options)
