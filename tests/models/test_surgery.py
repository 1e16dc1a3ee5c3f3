import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import BertConfig, TextConfig, UserError
from clipjax.models import param_shapes, with_params
from clipjax.models.surgery import (
    fitted,
    grow_vocabulary,
    replace_projection,
    replace_tower,
    resampled_positions,
    resize_context,
    resize_image,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "resized_positions.npz"


def drawn(config, seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(size=s).astype(np.float32) for n, s in param_shapes(config).items()}


def same(before, after, but=()):
    """All parameters but some have kept every bit."""
    assert before.keys() == after.keys()
    moved = {n for n in before if before[n].tobytes() != after[n].tobytes()}
    assert moved == set(but)


def stored(kind):
    with np.load(GOLDEN) as file:
        names = [name for name in file if name.startswith(kind) and name.endswith("before")]
        return [(file[name], file[name.replace("before", "after")]) for name in names]


@pytest.fixture(scope="module")
def config(tiny):
    return tiny.model()


@pytest.fixture(scope="module")
def params(config):
    return drawn(config)


def test_grids_are_resampled_as_open_clip_does():
    cases = stored("grid")
    assert len(cases) == 6
    for before, after in cases:
        np.testing.assert_allclose(
            resampled_positions(before, len(after)), after, rtol=0, atol=2e-6
        )


def test_lengths_are_interpolated_as_open_clip_does(tiny):
    cases = stored("text")
    assert len(cases) == 4
    for before, after in cases:
        model = tiny.model(text=tiny.text(context_length=len(before), width=16))
        table = np.tile(before, (1, 4))[:, :16]
        found = resize_context(model, {**drawn(model), "text/positions": table}, len(after))[1]
        expected = np.tile(after, (1, 4))[:, :16]
        np.testing.assert_allclose(found["text/positions"], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("front", [0, 1])
def test_a_constant_grid_stays_constant(front):
    table = np.full((front + 36, 4), 0.7, np.float32)
    np.testing.assert_allclose(resampled_positions(table, front + 16), 0.7, rtol=1e-6)


def test_a_grid_of_the_same_size_is_the_grid():
    table = np.random.default_rng(0).normal(size=(17, 4)).astype(np.float32)
    assert resampled_positions(table, 17).tobytes() == table.tobytes()


def test_a_slope_stays_a_slope_inside():
    """Rows and columns are not mixed up: channel 0 rises with the row, 1 with the column."""
    rows, columns = np.mgrid[:8, :8]
    table = np.stack([rows, 3 * columns], -1).reshape(64, 2).astype(np.float32)
    found = resampled_positions(table, 256).reshape(16, 16, 2)[4:-4, 4:-4]
    place = (np.arange(4, 12) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(found[..., 0], np.tile(place[:, None], (1, 8)), atol=1e-5)
    np.testing.assert_allclose(found[..., 1], np.tile(3 * place, (8, 1)), atol=1e-5)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
@pytest.mark.parametrize("image", [{}, {"pool": "map"}, {"pool": "mean", "positions": "sincos2d"}])
def test_another_image_size(tiny, image, scan):
    config = tiny.model(image=tiny.vit(**image), compute={"scan_layers": scan})
    before = drawn(config)
    new, after = resize_image(config, before, 20)
    learned = "positions" not in image
    same(before, after, but=["image/positions"] if learned else [])
    assert {n: a.shape for n, a in after.items()} == param_shapes(new)
    assert new == dataclasses.replace(
        config, image=dataclasses.replace(config.image, image_size=20)
    )
    images = jnp.zeros((2, 20, 20, 3), jnp.uint8)
    model = with_params(new, {n: jnp.asarray(a) for n, a in after.items()})
    assert np.isfinite(model.encode_image(images)).all()


def test_a_convnet_needs_nothing(tiny):
    config = tiny.model(image=tiny.convnet())
    before = drawn(config)
    new, after = resize_image(config, before, 32)
    assert new.image.image_size == 32
    same(before, after)


def test_the_resize_side_keeps_its_ratio(config, params):
    larger = dataclasses.replace(config, resize_side=15)
    assert resize_image(larger, params, 20)[0].resize_side == 25
    assert resize_image(config, params, 20)[0].resize_side is None


def test_an_image_size_that_cannot_be_is_refused(config, params):
    with pytest.raises(UserError, match="patch_size=4 does not divide image_size=18"):
        resize_image(config, params, 18)


def test_parameters_of_another_config_are_refused(config, params):
    some = {name: array for name, array in params.items() if "mlp" not in name}
    with pytest.raises(UserError, match=r"mlp/fc1/bias is missing and 15 more"):
        resize_image(config, some, 20)
    wide = {**params, "image/class_token": np.zeros(7, np.float32)}
    with pytest.raises(UserError, match=r"image/class_token would be \[16\] .* is \[7\]"):
        resize_image(config, wide, 20)


def test_a_truncated_context_keeps_its_first_rows(config, params):
    new, after = resize_context(config, params, 4, how="truncate")
    assert new.text.context_length == 4
    same(params, after, but=["text/positions"])
    np.testing.assert_array_equal(after["text/positions"], params["text/positions"][:4])
    tokens = jnp.asarray([[3, 19, 0, 0]], jnp.int32)
    long, short = (
        with_params(c, {n: jnp.asarray(a) for n, a in p.items()}).encode_text(tokens)
        for c, p in ((config, params), (new, after))
    )
    np.testing.assert_allclose(long, short, atol=1e-6)  # causal, and the end token is pooled


def test_positions_are_not_invented_by_truncating(config, params):
    with pytest.raises(UserError, match="cannot be truncated to more"):
        resize_context(config, params, 9, how="truncate")


def test_the_row_of_a_class_token_behind_the_text_stays_last(tiny):
    config = tiny.model(text=tiny.text(pool="class"))
    before = drawn(config)
    for how, length in (("interpolate", 9), ("truncate", 4)):
        new, after = resize_context(config, before, length, how=how)
        assert param_shapes(new)["text/positions"] == after["text/positions"].shape
        np.testing.assert_array_equal(after["text/positions"][-1], before["text/positions"][-1])
        if how == "truncate":
            np.testing.assert_array_equal(
                after["text/positions"][:-1], before["text/positions"][:4]
            )


def test_a_bert_has_positions_up_to_a_length(tiny):
    text = BertConfig(
        vocab_size=20, context_length=6, max_positions=10, width=16, num_heads=2, depth=1,
        mlp_dim=24,
    )  # fmt: skip
    config = tiny.model(text=text)
    before = drawn(config)
    same(before, resize_context(config, before, 8)[1])
    with pytest.raises(UserError, match="max_positions=10 has no row"):
        resize_context(config, before, 9)


def test_new_words_keep_the_old_ones(config, params):
    new, after = grow_vocabulary(config, params, 300, seed=1)
    same(params, after, but=["text/embedding"])
    old = params["text/embedding"]
    assert after["text/embedding"].shape == (300, 16)
    np.testing.assert_array_equal(after["text/embedding"][:20], old)
    rows = after["text/embedding"][20:]
    # 280 draws: the mean is off by less than five of its deviations, a 17th of theirs.
    np.testing.assert_allclose(rows.mean(0), old.mean(0), atol=5 / 17 * old.std(0).max())
    np.testing.assert_allclose(rows.std(0), old.std(0), rtol=0.25)
    again = grow_vocabulary(config, params, 300, seed=1)[1]["text/embedding"]
    assert again.tobytes() == after["text/embedding"].tobytes()
    assert new.text.eot_id == config.text.eot_id == 19


def test_the_end_of_a_text_is_still_found(config, params):
    new, after = grow_vocabulary(config, params, 25, seed=0)
    tokens = jnp.asarray([[3, 5, 19, 0, 0, 0]], jnp.int32)
    embeds = [
        with_params(c, {n: jnp.asarray(a) for n, a in p.items()}).encode_text(tokens)
        for c, p in ((config, params), (new, after))
    ]
    np.testing.assert_array_equal(*embeds)


def test_a_vocabulary_does_not_shrink(config, params):
    with pytest.raises(UserError, match="vocab_size=19 is less than the 20 ids"):
        grow_vocabulary(config, params, 19, seed=0)


def test_a_new_projection_of_one_tower(config, params):
    new, after = replace_projection(config, params, "text", seed=5)
    assert new == config
    same(params, after, but=["text/project/kernel"])
    assert 0.5 < after["text/project/kernel"].std() * 16**0.5 < 2  # as it is initialised


def test_another_shared_space_draws_both_projections(config, params):
    new, after = replace_projection(config, params, "image", seed=5, embed_dim=12)
    assert new.embed_dim == 12
    same(params, after, but=["image/project/kernel", "text/project/kernel"])
    assert after["image/project/kernel"].shape == (16, 12)


def test_a_projection_is_dropped_and_added_again(config, params):
    new, after = replace_projection(config, params, "image", seed=0, projection=False, embed_dim=16)
    assert new.image.projection is False
    assert "image/project/kernel" not in after
    assert after["text/project/kernel"].shape == (16, 16)
    back, again = replace_projection(new, after, "image", seed=0, projection=True, embed_dim=8)
    assert back == config
    same({**params}, again, but=["image/project/kernel", "text/project/kernel"])


def test_a_space_that_does_not_fit_is_refused(config, params):
    with pytest.raises(UserError, match=r"embed_dim=8 to be image\.width=16"):
        replace_projection(config, params, "image", seed=0, projection=False)


def test_the_attention_pool_is_no_projection(tiny):
    """SigLIP's tower ends in an MLP of its pool; a new shared space is a projection more."""
    config = tiny.model(image=tiny.vit(pool="map", projection=False), embed_dim=16)
    before = drawn(config)
    new, after = replace_projection(config, before, "image", seed=0, projection=True, embed_dim=4)
    pool = {n for n in before if n.startswith("image/pool/")}
    assert pool
    assert all(before[n].tobytes() == after[n].tobytes() for n in pool)
    assert after.keys() - before.keys() == {"image/project/kernel"}
    assert {n: a.shape for n, a in after.items()} == param_shapes(new)


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_projections_of_other_families(tiny, kind):
    from clipjax.config import ConvNeXtConfig, ResNetConfig

    images = {
        "resnet": ResNetConfig(image_size=32, depths=(1, 1, 1, 1), width=4, num_heads=2),
        "convnext": ConvNeXtConfig(image_size=32, widths=(4, 8, 12, 16), depths=(1, 1, 1, 1)),
    }
    config = tiny.model(image=images[kind])
    before = drawn(config)
    if kind == "resnet":
        with pytest.raises(UserError, match="one kind of projection only"):
            replace_projection(config, before, "image", seed=0, projection=False)
    new, after = replace_projection(config, before, "image", seed=0)
    assert new == config
    moved = {n for n in before if before[n].tobytes() != after[n].tobytes()}
    assert {name.rpartition("/")[0] for name in moved} == {
        "resnet": {"image/pool/out"},
        "convnext": {"image/head/fc2"},
    }[kind]


def test_a_resnet_for_another_size(tiny):
    from clipjax.config import ResNetConfig

    image = ResNetConfig(image_size=64, depths=(1, 1, 1, 1), width=4, num_heads=2)
    config = tiny.model(image=image)
    before = drawn(config)
    new, after = resize_image(config, before, 96)
    same(before, after, but=["image/pool/positions"])
    assert param_shapes(new)["image/pool/positions"] == after["image/pool/positions"].shape


def test_a_tower_takes_the_place_of_another(config, params):
    tower = {n: a for n, a in drawn(config, 9).items() if n.startswith("text/") and "proj" not in n}
    after = replace_tower(config, params, "text", tower)
    same(params, after, but=tower)


def test_what_is_no_tower_is_refused(config, params):
    with pytest.raises(UserError, match=r"no parameter of the text tower. Did you mean 'text/pos"):
        replace_tower(config, params, "text", {"text/position": np.zeros(3)})
    with pytest.raises(UserError, match="image/positions is no parameter of the text tower"):
        replace_tower(config, params, "text", {"image/positions": params["image/positions"]})
    with pytest.raises(UserError, match=r"text/norm/bias is \[3\], expected \[16\]"):
        replace_tower(config, params, "text", {"text/norm/bias": np.zeros(3)})


def test_only_what_may_be_drawn_is_drawn(config, params):
    some = {n: a for n, a in params.items() if not n.startswith("text/")}
    with pytest.raises(UserError, match=r"\d+ parameters do not fit the model: text/.*missing"):
        fitted(config, some, seed=0)
    found = fitted(config, {**some, "extra": np.zeros(2)}, seed=0, fresh=["text/*"])
    assert found.keys() == params.keys()
    assert all(found[n].tobytes() == some[n].tobytes() for n in some)
    assert isinstance(config.text, TextConfig)
