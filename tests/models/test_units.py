import dataclasses

import jax
import pytest

from clipjax.config import (
    BertConfig,
    ComputeConfig,
    EfficientNetConfig,
    EvaConfig,
    ModernTextConfig,
    UserError,
)
from clipjax.models import IMAGE_TOWERS, TEXT_TOWERS, param_shapes, tapped, unit_paths, with_params

SMALL = {"width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 24}
BLOCKS = {
    f"blocks/{n}/{site}": width
    for n in (0, 1)
    for site, width in (("mlp_pre", 24), ("mlp_act", 24), ("out", 16))
}
GATED = {path: width for path, width in BLOCKS.items() if "pre" not in path}


def stages(widths, depths, sites):
    """Paths of stages whose sites are so many times as wide as the stage."""
    return {
        f"stages/{stage}/blocks/{block}/{site}": times * width
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True))
        for block in range(depth)
        for site, times in sites.items()
    }


def image_cases(tiny):
    eva = {"image_size": 12, "patch_size": 4, "rope_grid": 3, **SMALL}
    resnet = {"pre_1": 1, "act_1": 1, "pre_2": 1, "act_2": 1, "pre_out": 4, "out": 4}
    convnext = {"mlp_pre": 4, "mlp_act": 4, "out": 1}
    return {
        "vit-map": (tiny.vit(pool="map"), {**BLOCKS, "pool/mlp_pre": 24, "pool/mlp_act": 24}),
        "eva": (EvaConfig(**eva), GATED),
        "eva-post": (
            EvaConfig(**eva, swiglu=False, mlp_norm=False, attention_norm=False, post_norm=True),
            BLOCKS,
        ),
        "convnet": (tiny.convnet(), stages((4, 8, 12), (1, 2, 1), {"pre": 1, "act": 1, "out": 1})),
        "convnext": (tiny.convnext(), stages((4, 8, 12), (1, 2, 1), convnext)),
        "resnet": (tiny.resnet(), stages((4, 8, 16, 32), (1, 2, 1, 1), resnet)),
        "efficientnet": (
            EfficientNetConfig(image_size=32, width_factor=0.1, depth_factor=0.01, projection=True),
            None,
        ),
    }


def text_cases(tiny):
    text = {"vocab_size": 20, "context_length": 6, **SMALL}
    return {
        "transformer": (tiny.text(), BLOCKS),
        "bert": (BertConfig(**text, max_positions=10), BLOCKS),
        "modern": (ModernTextConfig(**text), GATED),
    }


def cases(tiny):
    found = {f"image-{name}": ("image", *case) for name, case in image_cases(tiny).items()}
    return found | {f"text-{name}": ("text", *case) for name, case in text_cases(tiny).items()}


def test_every_tower_has_its_paths(tiny):
    """By hand, and by what an unrolled model reads."""
    kinds = {"image": set(), "text": set()}
    for name, (tower, towers_config, expected) in cases(tiny).items():
        config = tiny.model(**{tower: towers_config})
        kinds[tower].add(towers_config.kind)
        found = unit_paths(config, [f"{tower}/*", "shared/embed"])
        if expected is not None:
            assert found == {
                **{f"{tower}/{path}": width for path, width in expected.items()},
                "shared/embed": 8,
            }, name
        params = {n: jax.ShapeDtypeStruct(s, "float32") for n, s in param_shapes(config).items()}
        side = config.image.image_size
        shape, dtype = ((2, side, side, 3), "uint8") if tower == "image" else ((2, 6), "int32")

        def run(params, x, config=config, tower=tower):
            return getattr(with_params(config, params), f"encode_{tower}")(x)

        reads = jax.eval_shape(
            tapped(run, read={"*": "max"}), params, jax.ShapeDtypeStruct(shape, dtype)
        )[1]
        assert {path: leaf.shape for path, leaf in reads.items()} == {
            path: (2, width) for path, width in found.items()
        }, name
    assert kinds == {"image": set(IMAGE_TOWERS), "text": set(TEXT_TOWERS)}


def test_patterns_choose_and_an_unknown_one_names_the_nearest(tiny):
    config = tiny.model()
    scanned = dataclasses.replace(config, compute=ComputeConfig(scan_layers=True))
    assert unit_paths(config) == unit_paths(scanned)
    assert unit_paths(config, ["*/1/mlp_act"]) == {
        "image/blocks/1/mlp_act": 24,
        "text/blocks/1/mlp_act": 24,
    }
    with pytest.raises(UserError, match=r"'image/blocks/2/mlp_act' .*'image/blocks/\d/mlp_act'\?"):
        unit_paths(config, ["text/*", "image/blocks/2/mlp_act"])
