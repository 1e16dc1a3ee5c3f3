"""A tiny model and facets that are at hand, for what runs a model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.config import ComputeConfig, DualEncoderConfig, TextConfig, ViTConfig
from clipjax.inference.encoder import Encoder
from clipjax.inference.load import Model
from clipjax.interpret.facets import FacetRows
from clipjax.models import init_model_state, init_params


class Letters:
    """Ids of letters; the end has the largest."""

    def __init__(self, text):
        self.context_length, self.vocab_size = text.context_length, text.vocab_size

    def __call__(self, text):
        ids = np.zeros(self.context_length, np.int32)
        letters = [1 + ord(c) % (self.vocab_size - 2) for c in text][: self.context_length - 1]
        ids[: len(letters)] = letters
        ids[len(letters)] = self.vocab_size - 1
        return ids


@dataclasses.dataclass
class ArrayFacet:
    """Pictures or texts at hand."""

    rows: FacetRows
    owner: np.ndarray
    samples: object

    def fill(self, sample, out):
        out[...] = self.samples[sample]

    def text(self, sample):
        return self.samples[sample]

    def picture(self, row):
        return None


def facet_of(name, samples, labels, *, owner=None, confounds=None):
    owner = np.arange(len(samples)) if owner is None else owner
    count = int(owner.max()) + 1
    words = isinstance(samples[0], str)
    confounds = np.zeros((count, 0)) if confounds is None else confounds
    rows = FacetRows(
        name=name,
        tower="text" if words else "image",
        stimuli=tuple(f"s{i}" for i in range(count)),
        samples=len(samples),
        texts=tuple(f"thing {i}" for i in range(count)),
        labels=labels,
        confounds=confounds,
        confound_names=tuple(f"c{i}" for i in range(confounds.shape[1])),
    )
    return ArrayFacet(rows, owner, samples)


def tiny_config(image=None, text=None, compute=None, **fields):
    image = image or ViTConfig(
        image_size=8, patch_size=4, width=16, depth=2, num_heads=2, mlp_dim=24
    )
    text = text or TextConfig(
        vocab_size=30, context_length=12, width=16, depth=2, num_heads=2, mlp_dim=24
    )
    return DualEncoderConfig(
        image=image,
        text=text,
        compute=ComputeConfig(**(compute or {})),
        **({"embed_dim": 8} | fields),
    )


def tiny_model(config, mesh, *, seed=0, batch_size=8):
    """A model with numbers that are not those of a start: no zeros of biases."""
    start = {**init_params(config, seed), **init_model_state(config)}
    rng = np.random.default_rng(seed)
    params = {
        name: jnp.asarray(p + 0.2 * rng.normal(size=p.shape), p.dtype)
        for name, p in sorted(start.items())
        if not name.endswith("/variance")
    }
    params |= {name: p for name, p in start.items() if name.endswith("/variance")}
    tokenizer = Letters(config.text)
    encoder = Encoder(config, tokenizer, mesh, batch_size=batch_size, threads=1)
    placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.P()))
    return Model(config, placed, tokenizer, encoder, 0, "tiny")
