import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import UsageError
from clipjax.models.layers import dot_product
from clipjax.models.layers.dot_product import attend, fallbacks_noted, padded, why_not_cudnn

BF16 = jnp.dtype("bfloat16")


def drawn(tokens, seen, *, heads=2, channels=8, batch=2, dtype="float32"):
    rng = np.random.default_rng(tokens)
    shapes = (tokens, seen, seen)
    return [
        jnp.asarray(rng.normal(size=(batch, length, heads, channels)), dtype) for length in shapes
    ]


@pytest.fixture
def on_gpu(monkeypatch):
    """Traces as for an H100, with XLA in the place of cuDNN, which is called with its options."""
    calls = []

    def recorded(query, key, value, **options):
        calls.append({"tokens": query.shape[1], "seen": key.shape[1], **options})
        return dot_product._xla(query, key, value, **options)

    monkeypatch.setattr(dot_product, "target", lambda: ("gpu", "NVIDIA H100 80GB HBM3"))
    monkeypatch.setattr(dot_product, "_cudnn", recorded)
    return calls


@pytest.mark.parametrize("causal", [False, True])
def test_matches_the_float64_definition(causal, reference):
    query, key, value = drawn(5, 5)
    out = attend(query, key, value, causal=causal)
    for example in range(2):
        expected = reference.attend(
            *(reference.f64(x[example]) for x in (query, key, value)), causal=causal
        )
        # Sums of at most 8 products of numbers near 1 in float32, and a softmax of 5.
        np.testing.assert_allclose(out[example], expected, rtol=1e-5, atol=1e-5)


def value_and_grads(attention, arrays, weights):
    def weighed(*arrays):
        return (attention(*arrays) * weights).sum()

    return jax.value_and_grad(weighed, argnums=(0, 1, 2))(*arrays)


@pytest.mark.parametrize("lengths", [None, [1, 4]], ids=["all keys", "first keys"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("tokens", "seen"), [(7, 7), (8, 8), (1, 5)])
def test_padding_changes_neither_value_nor_gradient(tokens, seen, causal, lengths):
    """The paths differ by exact zeros in sums of at most 16 terms: a few float32 roundings."""
    if causal and tokens != seen:
        return
    arrays = drawn(tokens, seen)
    weights = np.random.default_rng(1).normal(size=arrays[0].shape).astype(np.float32)
    lengths = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    plain = functools.partial(attend, causal=causal, lengths=lengths, implementation="xla")
    other = functools.partial(padded, dot_product._xla, causal=causal, lengths=lengths)
    expected, expected_grads = value_and_grads(plain, arrays, weights)
    found, grads = value_and_grads(other, arrays, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        assert grad.shape == expected_grad.shape
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 9])
def test_padding_is_never_seen(tokens, causal):
    """Keys of a huge size behind the tokens would win every softmax that sees them."""

    def poisoned(query, key, value, **options):
        behind = jnp.arange(key.shape[1])[None, :, None, None] >= tokens
        huge = jnp.where(behind, 1e4, key), jnp.where(behind, 1e4, value)
        assert query.shape[1] % 8 == key.shape[1] % 8 == 0
        return dot_product._xla(query, *huge, **options)

    arrays = drawn(tokens, tokens)
    out = padded(poisoned, *arrays, causal=causal, lengths=None)
    expected = attend(*arrays, causal=causal, implementation="xla")
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_lengths_hide_the_keys_behind_them(reference):
    query, key, value = drawn(3, 5)
    out = attend(query, key, value, lengths=jnp.array([2, 5], jnp.int32))
    for example, length in enumerate((2, 5)):
        arrays = (query[example], key[example, :length], value[example, :length])
        expected = reference.attend(*map(reference.f64, arrays))
        np.testing.assert_allclose(out[example], expected, rtol=1e-5, atol=1e-5)


def test_auto_takes_cudnn_on_a_gpu_padded_to_eight(on_gpu):
    arrays = drawn(5, 5, dtype=BF16)
    out = attend(*arrays)
    attend(*arrays, causal=True)
    bidirectional, causal = on_gpu
    assert bidirectional["tokens"] == bidirectional["seen"] == causal["tokens"] == 8
    assert bidirectional["key_value_seq_lengths"].tolist() == [5, 5]
    assert causal["is_causal"]
    assert causal["key_value_seq_lengths"] is None
    assert out.shape == arrays[0].shape


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"dtype": "float32"}, "bfloat16 or float16, not float32"),
        ({"channels": 12}, "heads of 12 channels"),
        ({"channels": 136}, "heads of 136 channels"),
        ({"masked": True}, "a mask of single tokens"),
        ({"causal": True, "seen": 6}, "a causal mask of 5 queries and 6 keys"),
        ({"device": ("tpu", "TPU v5e")}, "an NVIDIA GPU, not TPU v5e"),
        ({"device": ("gpu", "AMD Instinct MI300X")}, "an NVIDIA GPU, not AMD"),
        ({"device": ("gpu", "Tesla V100-SXM2-16GB")}, "compute capability below 8.0"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_where_cudnn_cannot_be_auto_takes_xla_and_cudnn_is_refused(
    fields, reason, on_gpu, monkeypatch
):
    fields = {"dtype": BF16, "channels": 8, "masked": False, "causal": False, "seen": 5} | fields
    if "device" in fields:
        monkeypatch.setattr(dot_product, "target", lambda: fields["device"])
    query, key, value = drawn(5, fields["seen"], dtype=fields["dtype"], channels=fields["channels"])
    mask = jnp.ones((2, 1, 1, 5), bool) if fields["masked"] else None
    call = functools.partial(attend, query, key, value, causal=fields["causal"], mask=mask)
    assert reason in str(
        why_not_cudnn(query, key, causal=fields["causal"], masked=mask is not None)
    )
    with fallbacks_noted() as found:
        call()
        call()
    assert len(found) == 1
    assert reason in found[0]
    assert not on_gpu
    with pytest.raises(UsageError, match=r"compute\.attention='cudnn'.*'auto'") as refused:
        call(implementation="cudnn")
    assert reason in str(refused.value)


def test_xla_is_taken_where_it_is_asked_for(on_gpu):
    with fallbacks_noted() as found:
        attend(*drawn(5, 5, dtype=BF16), implementation="xla")
    assert not on_gpu
    assert not found


def test_what_is_traced_for_is_the_mesh_and_not_the_machine(mesh):
    abstract = jax.sharding.AbstractMesh(
        mesh.axis_sizes,
        mesh.axis_names,
        abstract_device=jax.sharding.AbstractDevice(
            device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="gpu"
        ),
    )
    assert dot_product.target()[0] == "cpu"
    with jax.sharding.use_abstract_mesh(abstract):
        assert dot_product.target() == ("gpu", "NVIDIA H100 80GB HBM3")
        assert why_not_cudnn(*drawn(5, 5, dtype=BF16)[:2], causal=False, masked=False) is None
