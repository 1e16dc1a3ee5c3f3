"""Drops and curves by one program against models that are written one unit at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.interpret.causal import causal_drop, place_means, steering_curve
from clipjax.interpret.written_models import ablate, steer


def logits_of(model, names, toy, facet, *, prompts_of=None):
    """[stimuli, concepts], the views of a caption averaged."""
    prompts = (prompts_of or model).encode_text(names).astype(np.float64)
    if facet == "caption":
        embeds = model.encode_text(toy.texts).reshape(12, 2, -1)
        return model.logit_scale * (embeds @ prompts.T).mean(axis=1)
    pictures = toy.pictures[("photo", "edges").index(facet)]
    return model.logit_scale * (model.encode_image(pictures) @ prompts.T)


def drops_by_hand(plain, held, labels):
    out = []
    for c in range(labels.shape[1]):
        lost = plain[:, c] - held[:, c]
        out.append(lost[labels[:, c]].mean() - lost[~labels[:, c]].mean())
    return out


@pytest.mark.parametrize("path", ["image/blocks/0/mlp_act", "shared/embed"])
def test_drops_are_those_of_models_without_the_unit(toy, path):
    units = [0, 7, 3, 1, 2, 5, 6, 4]
    units += [] if path == "shared/embed" else [20, 11]  # a second, incomplete block of units
    found = causal_drop(toy.model, path, units, toy.facets, toy.names, batch_size=5)
    assert list(found) == ["photo", "edges"] + ["caption"] * (path == "shared/embed")
    for facet, place in (("photo", 1), (list(found)[-1], len(units) - 1)):
        plain = logits_of(toy.model, toy.names, toy, facet)
        mean = float(place_means(toy.model, path, toy.facets[facet])[units[place]])
        held = ablate(toy.model, path, [units[place]], value=mean)
        # The names are embedded by the model as it is.
        now = logits_of(held, toy.names, toy, facet, prompts_of=toy.model)
        wanted = drops_by_hand(plain, now, toy.labels)
        # float32 logits of about 14, of which 12 are summed: 3e-5 is some roundings.
        np.testing.assert_allclose(found[facet].drop[place], wanted, atol=3e-5)


def test_drops_on_eight_devices_are_those_of_one(toy, lab, mesh):
    spread = lab.model(lab.config(), mesh)
    path, units = "image/blocks/1/mlp_act", list(range(9))
    one = causal_drop(toy.model, path, units, toy.facets, toy.names)
    many = causal_drop(spread, path, units, toy.facets, toy.names)
    for facet, drops in one.items():
        np.testing.assert_allclose(many[facet].drop, drops.drop, atol=3e-5)


def test_scanned_layers_give_the_same_drops(toy, lab, one_device):
    from clipjax.core.stacks import stacked

    scanned = lab.model(lab.config(compute={"scan_layers": True}), one_device)
    pairs = stacked((n, np.asarray(p)) for n, p in toy.model.params.items())
    scanned.params = {name: jnp.asarray(array) for name, array in pairs}
    path = "image/blocks/1/mlp_act"
    one = causal_drop(toy.model, path, [2, 9, 4], toy.facets, toy.names)
    two = causal_drop(scanned, path, [2, 9, 4], toy.facets, toy.names)
    np.testing.assert_allclose(two["edges"].drop, one["edges"].drop, atol=3e-5)


def test_a_curve_goes_through_the_model_as_it_is(toy):
    path, unit = "image/blocks/1/mlp_act", 6
    curve = steering_curve(
        toy.model, path, unit, toy.facets["photo"], toy.names, [-2.0, 0.0, 3.0], batch_size=5
    )
    for place, amount in enumerate((-2.0, 0.0)):
        moved = steer(toy.model, path, [unit], amount)
        logits = logits_of(moved, toy.names, toy, "photo", prompts_of=toy.model)
        on = [logits[toy.labels[:, c], c].mean() for c in range(3)]
        off = [logits[~toy.labels[:, c], c].mean() for c in range(3)]
        np.testing.assert_allclose(curve.on[place], on, atol=3e-5)
        np.testing.assert_allclose(curve.off[place], off, atol=3e-5)
        shares = np.bincount(logits.argmax(axis=1), minlength=3) / 12
        np.testing.assert_allclose(curve.predicted[place], shares)


def test_a_facet_that_does_not_run_the_units_is_told(toy):
    with pytest.raises(UserError, match=r"no facet runs it. There are caption \(text\)"):
        causal_drop(
            toy.model,
            "image/blocks/0/mlp_act",
            [0],
            {"caption": toy.facets["caption"]},
            toy.names,
        )
