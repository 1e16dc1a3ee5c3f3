"""Pairs of embeddings whose dictionary is known: shared concepts, a gap, and atoms of one side."""

import dataclasses

import numpy as np
import pytest

from clipjax.config import MeshConfig
from clipjax.core.mesh import make_mesh
from clipjax.interpret.sae.features import FeaturePairs
from clipjax.interpret.sae.options import SaeOptions
from clipjax.interpret.sae.training import train_sae


def planted_pairs(
    *, pairs=800, dim=24, shared=24, own=4, k=2, gap=0.8, noise=0.02, seed=0, with_amounts=False
):
    """Returns pictures and texts, unit rows, and the atoms: the shared ones, then each side's."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(shared + 2 * own, dim))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    offsets = rng.normal(size=(2, dim))
    chosen = np.argsort(rng.random((pairs, shared)), axis=1)[:, :k]
    amounts = np.zeros((pairs, shared))
    np.put_along_axis(amounts, chosen, rng.uniform(0.6, 1.4, (pairs, k)), axis=1)
    sides = []
    for side in range(2):
        offset = offsets[side]
        rows = (amounts * rng.uniform(0.9, 1.1, amounts.shape)) @ atoms[:shared]
        mine = atoms[shared + side * own + rng.integers(own, size=pairs)]
        rows += 0.3 * (rng.random((pairs, 1)) < 0.3) * mine
        rows += gap * offset / np.linalg.norm(offset) + noise * rng.normal(size=rows.shape)
        sides.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    found = sides[0], sides[1], atoms
    return (*found, amounts) if with_amounts else found


@pytest.fixture(scope="session")
def make_pairs():
    """The function `planted_pairs`."""
    return planted_pairs


@pytest.fixture(scope="session")
def pairs():
    """(features, atoms) of a planted dictionary."""
    image, text, atoms = planted_pairs()
    return FeaturePairs(image, text), atoms


@pytest.fixture(scope="session")
def one_device():
    return make_mesh(MeshConfig(), num_devices=1)


@pytest.fixture(scope="session")
def options():
    return SaeOptions(
        objective="group", latents=40, k=3, steps=250, batch_size=64, learning_rate=6e-3
    )


@pytest.fixture(scope="session")
def make_sae(pairs, one_device, options):
    """Trains an autoencoder on the planted pairs, once for each set of options."""
    known = {}

    def make(**fields):
        asked = dataclasses.replace(options, **fields)
        if asked not in known:
            known[asked] = train_sae(pairs[0], asked, one_device)
        return known[asked]

    return make
