import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.config import UsageError, UserError
from clipjax.models import tapped
from clipjax.models.taps import in_tower, tap, taps


def run_once(x, name="units"):
    return in_tower("image", lambda x: tap(name, x))(x)


def test_the_gradient_of_a_maximum_goes_to_its_place_alone():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)), jnp.float32)
    x = x.at[0, 3].set(x[0].max(0))  # a tie: the first counts

    def read(x):
        return tapped(run_once, read={"*": "max"})(x)[1]["image/units"].sum()

    expected = np.zeros((2, 5, 3))
    rows, units = np.mgrid[:2, :3]
    expected[rows, np.asarray(x).argmax(1), units] = 1
    np.testing.assert_array_equal(jax.grad(read)(x), expected)


@settings(max_examples=20, deadline=None)
@given(
    units=st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True),
    mode=st.sampled_from(["replace", "add"]),
    by=st.sampled_from(["number", "row", "whole", "function"]),
    seed=st.integers(0, 99),
)
def test_a_write_changes_its_units_and_no_other(units, mode, by, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 3, 6)).astype(np.float32)
    value = {
        "number": np.float32(2.5),
        "row": rng.normal(size=len(units)).astype(np.float32),
        "whole": rng.normal(size=(2, 3, len(units))).astype(np.float32),
        "function": lambda old: 3 * old,
    }[by]
    given_value = 3 * x[..., units] if by == "function" else value
    expected = x.copy()
    expected[..., units] = given_value if mode == "replace" else x[..., units] + given_value
    with taps(write={"image/u*": (mode, value, units)}):
        actual = in_tower("image", lambda x: tap("units", x))(jnp.asarray(x))
    np.testing.assert_array_equal(actual, expected)


def test_writes_that_fit_one_path_follow_each_other():
    write = {"*": ("add", 1.0), "image/units": ("replace", lambda x: 10 * x)}
    with taps(read={"*": "all"}, write=write) as reads:
        in_tower("image", lambda x: tap("units", x))(jnp.ones((1, 2)))
    np.testing.assert_array_equal(reads["image/units"], [[20, 20]])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"read": {"image/unitz": "max"}}, r"'image/unitz' .* Did you mean 'image/units'\?"),
        ({"write": {"image/unit": ("add", 1)}}, r"'image/unit' .* Did you mean 'image/units'\?"),
        ({"read": {"*": "max", "text/*": "max"}}, r"'text/\*' is nothing that was run"),
        ({"write": {"*": ("add", 1, [0, 3])}}, r"has units 0 to 2, not \[0, 3\]"),
        ({"write": {"*": ("add", 1, [-1])}}, r"has units 0 to 2, not \[-1\]"),
        ({"write": {"*": ("add", np.ones(4))}}, r"shape \(4,\) does not broadcast .*\(2, 5, 3\)"),
        ({"read": {"*": "eot"}}, r"'image/units' has no 'eot' token: take 'max'"),
    ],
)
def test_what_does_not_fit_is_refused(asked, message):
    with pytest.raises(UserError, match=message), taps(**asked):
        run_once(jnp.ones((2, 5, 3)))
    assert run_once(jnp.ones((2, 5, 3))).shape == (2, 5, 3)  # closed again


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"read": {"*": "most"}}, "'most' is none of 'all', 'max', 'mean', 'cls', 'eot'"),
        ({"write": {"*": ("set", 1)}}, "'set' is none of 'replace', 'add'"),
    ],
)
def test_unknown_words_are_refused_before_anything_runs(asked, message):
    with pytest.raises(UsageError, match=message), taps(**asked):
        raise AssertionError


def test_taps_are_opened_once_and_in_the_trace_that_they_read():
    x = jnp.ones((2, 5, 3))
    with pytest.raises(UsageError, match="open already"), taps(read={"*": "max"}):
        tapped(run_once, read={"*": "max"})(x)
    with pytest.raises(UsageError, match="'image/units' was run twice"), taps(read={"*": "max"}):
        run_once(run_once(x))
    for transform in (jax.jit, lambda f: jax.grad(lambda x: f(x).sum()), jax.vmap):
        with (
            pytest.raises(UsageError, match="outside of the function"),
            taps(write={"*": ("add", 1)}),
        ):
            transform(lambda x: run_once(x))(x)
    compiled = jax.jit(lambda x: run_once(x))
    compiled(x)
    with pytest.raises(UserError, match="compiled before"), taps(write={"*": ("add", 1)}):
        compiled(x)
    np.testing.assert_array_equal(compiled(x), x)


def test_other_threads_see_no_taps():
    outputs = []
    with taps(write={"*": ("add", 1)}):
        thread = threading.Thread(target=lambda: outputs.append(run_once(jnp.zeros((1, 3)))))
        thread.start()
        thread.join()
        outputs.append(run_once(jnp.zeros((1, 3))))
    assert [float(output.sum()) for output in outputs] == [0, 3]


def test_an_error_inside_is_the_one_that_is_seen():
    with pytest.raises(ZeroDivisionError), taps(read={"nothing": "max"}):
        raise ZeroDivisionError
