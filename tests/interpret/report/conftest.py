"""Findings of a model that was never trained, to draw pages of."""

import numpy as np
import pytest

from clipjax.data.emoji_world import load_emoji_world

KINDS = ("multimodal-same", "multimodal-partial", "unimodal", "modality-detector")
FACETS = {"photo": "image", "edges": "image", "word": "image", "scrambled": "image"}


def _concept(rng, concept, name, facets):
    def each(low, high):
        return {facet: float(rng.uniform(low, high)) for facet in facets}

    auroc = each(0.76, 1.0)
    return {
        "concept": concept,
        "name": name,
        "auroc": auroc,
        "p": each(0, 1e-4),
        "p_stratified": each(0, 1e-3),
        "interval": {f: [v - float(rng.uniform(0, 0.1)), 1.0] for f, v in auroc.items()},
        "p_joint": float(rng.uniform(0, 1e-3)),
        "q": float(rng.uniform(0, 0.05)),
        "q_bh": float(rng.uniform(0, 0.05)),
        "q_by": float(rng.uniform(0, 0.05)),
        "effect": min(auroc.values()),
        "invariance": float(rng.uniform(0, 1)),
        "strict": min(auroc.values()) > 0.8,
        "replicated": [True, False, None][int(rng.integers(3))],
        "found": True,
        "facets": facets,
        "positives": {facet: int(rng.integers(5, 40)) for facet in facets},
        "control_auroc": {"scrambled": float(rng.uniform(0.4, 0.9))},
        "ap": each(0, 1),
        "iou": each(0, 1),
        "mad": each(0, 5),
    }


def _exemplars(rng, world, facet, count, most):
    rows = len(world.concepts) if facet in ("word", "scrambled") else len(world.stimuli)
    chosen = rng.choice(rows, size=min(count, rows), replace=False)
    texts = (
        [one.name for one in world.concepts]
        if facet in ("word", "scrambled")
        else [one[0] for one in world.captions]
    )
    return [
        {
            "stimulus": f"s{row}",
            "row": int(row),
            "text": texts[row],
            "value": float(most - 0.1 * at),
            "positive": bool(rng.integers(2)),
        }
        for at, row in enumerate(chosen)
    ]


def _histogram(rng):
    counts = rng.integers(0, 40, 24)
    counts[0] = 140
    return {
        "edges": np.linspace(0, float(rng.uniform(2, 9)), 25).tolist(),
        "counts": counts.tolist(),
        "positives": np.minimum(counts, rng.integers(0, 3, 24)).tolist(),
    }


def _space(rng, path, facets, units):
    def control(failed=False):
        return {
            "pairs": int(rng.integers(0, 9)),
            "replicated_pairs": int(rng.integers(0, 3)),
            "strict_units": int(rng.integers(0, 3)),
            "cross_modal_ratio": {
                "mean": 1.0 + float(rng.normal()) / 50,
                "median": 1.0,
                "max": 1.2,
            },
            "failed": failed,
        }

    return {
        "path": path,
        "units": units,
        "facets": facets,
        "pairs": 217,
        "multimodal_units": 127,
        "strict_units": 86,
        "strict_concepts": 20,
        "concepts": 22,
        "replicated_pairs": 54,
        "replicated_units": 42,
        "replicated_concepts": 11,
        "counts": {"adafilter": 217, "bh": 171, "by": 98},
        "kinds": {"multimodal-same": 127, "unimodal": 70, "dead": 9, "none": units - 206},
        "cross_modal_ratio": {"mean": 2.6183, "median": 1.75, "max": 16.7},
        "monosemanticity": {"mean": 1.9, "median": 1.4, "max": 8.0},
        "concepts_per_unit": 1.7087,
        "average_precision": 0.4321,
        "cross_modal_found": 3.141,
        "floor_only_facets": [],
        "held_out_concepts": {"pairs": 101, "concepts": 11},
        "controls": {
            "untrained": control(),
            "shuffled": control(),
            "rotated": {**control(), "pairs": 244 + 1 / 3, "seeds": 3},
        },
        "permutation": {
            "observed": 217,
            "null_mean": 26.183,
            "enrichment": 217 / 26.183,
            "p": 1 / 1001,
            "facet": "edges",
            "failed": False,
        },
    }


def findings(*, units=30, exemplars=25, seed=0, spec="runs/emoji"):
    """Findings of the schema that neurons.json has, of pictures that the world has."""
    world = load_emoji_world()
    rng = np.random.default_rng(seed)
    facets = [*FACETS, "caption"]
    first, second = "image/blocks/1/mlp_act", "shared/embed"
    listed = []
    for number in range(units):
        path = first if number % 3 else second
        own = ["photo", "edges", "word"] + (["caption"] if path == second else [])
        kind = KINDS[int(rng.integers(4))] if number > 8 else KINDS[0]
        chosen = rng.choice(len(world.concepts), size=int(rng.integers(1, 7)), replace=False)
        concepts = [
            _concept(rng, world.concepts[c].id, world.concepts[c].name, own) for c in chosen
        ]
        listed.append(
            {
                "unit": f"{path}:{number}" + ("+" if path == second else ""),
                "path": path,
                "index": number,
                "sign": "+",
                "kind": kind,
                "detects": [],
                "monosemanticity": float(rng.uniform(0, 1)),
                "cross_modal_ratio": float(rng.uniform(1, 9)),
                "modality_score": float(rng.uniform(0, 1)),
                "label": concepts[0]["name"],
                "words": [one["name"] for one in concepts] + ["animal"],
                "badges": ["rotated control equal", "confound", "reads letters, not the word"][
                    : int(rng.integers(4))
                ],
                "concepts": [] if kind == KINDS[3] else concepts,
                "top": {f: _exemplars(rng, world, f, exemplars, 5) for f in own},
                "bottom": {f: _exemplars(rng, world, f, exemplars, 0) for f in own},
                "histogram": {f: _histogram(rng) for f in own},
            }
        )
    return {
        "schema": 1,
        "version": "0.8.0",
        "model": {"spec": spec, "step": 1300, "identity": "5ac3f"},
        "data": {
            "stimuli": "emoji-world",
            "facets": [
                {
                    "name": name,
                    "tower": FACETS.get(name, "text"),
                    "stimuli": 24 if name in ("word", "scrambled") else len(world.stimuli),
                    "samples": 4321,
                    "control": name == "scrambled",
                }
                for name in facets
            ],
            "concepts": [
                {
                    "id": one.id,
                    "name": one.name,
                    "words": list(one.words),
                    "positives": {"photo": 7 + at, "caption": 9},
                }
                for at, one in enumerate(world.concepts)
            ],
            "untested": ["bird: too few positives in word"],
        },
        "settings": {"rate": 0.0491, "method": "adafilter", "floor": 0.75, "strict": 0.8},
        "spaces": [
            _space(rng, first, ["photo", "edges", "word"], 256),
            {
                **_space(rng, second, ["photo", "edges", "word", "caption"], 512),
                "pairs": 11,
                "replicated_pairs": 3,
                "controls": {},
            },
        ],
        "units": listed,
        "summary": {"best_space": first},
        "failed_controls": [],
        "proves": ["Small clean data proves that the machinery works, not what web models do."],
        "seed": 17,
        "seconds": 12.5,
    }


def picture_of(facet, row):
    """The picture of a facet of the world."""
    world = load_emoji_world()
    if facet == "photo":
        return world.photo[row]
    if facet == "caption":
        return None
    words = world.words if facet == "word" else world.scrambled
    grey = world.edges[row] if facet == "edges" else 255 - words[row, 0]
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.fixture(scope="session")
def make():
    """Makes findings; see `findings`."""
    return findings


@pytest.fixture(scope="session")
def show():
    """Gives the pictures of those findings; see `picture_of`."""
    return picture_of
