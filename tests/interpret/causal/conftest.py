"""A tiny model and facets that are at hand, for what runs a model."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import ComputeConfig, DualEncoderConfig, MeshConfig, TextConfig, ViTConfig
from clipjax.core.mesh import make_mesh
from clipjax.data.tokenizers.byte import ByteTokenizer
from clipjax.inference.encoder import Encoder
from clipjax.inference.load import Model
from clipjax.interpret.facets import FacetRows
from clipjax.models import init_model_state, init_params


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
        vocab_size=258, context_length=12, width=16, depth=2, num_heads=2, mlp_dim=24
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
    tokenizer = ByteTokenizer(context_length=config.text.context_length, lowercase=True)
    encoder = Encoder(config, tokenizer, mesh, batch_size=batch_size, threads=1)
    placed = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.P()))
    return Model(config, placed, tokenizer, encoder, 0, "tiny")


@pytest.fixture(scope="session")
def lab():
    """Makers of tiny models and of facets that are at hand."""
    return types.SimpleNamespace(facet=facet_of, config=tiny_config, model=tiny_model)


@pytest.fixture(scope="session")
def one_device():
    """A mesh of the first device."""
    return make_mesh(MeshConfig(fsdp=1), num_devices=1)


@pytest.fixture(scope="session")
def toy(lab, one_device):
    """A tiny model, and three facets of 12 stimuli and 3 concepts; captions have two views."""
    rng = np.random.default_rng(5)
    labels = rng.random((12, 3)) < 0.4
    labels[:2], labels[2:4] = True, False
    pictures = rng.integers(0, 256, (2, 12, 8, 8, 3)).astype(np.uint8)
    texts = [
        f"{'abcdefghijkl'[i]}{'xyzw'[i % 4] * (1 + i % 3)}{v}" for i in range(12) for v in "pq"
    ]
    facets = {
        "photo": lab.facet("photo", pictures[0], labels),
        "edges": lab.facet("edges", pictures[1], labels),
        "caption": lab.facet("caption", texts, labels, owner=np.repeat(np.arange(12), 2)),
    }
    return types.SimpleNamespace(
        model=lab.model(lab.config(), one_device),
        facets=facets,
        names=["cat", "dog", "tree"],
        pictures=pictures,
        texts=texts,
        labels=labels,
    )
