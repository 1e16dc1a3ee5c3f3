"""Scaled dot-product attention, the one function of all towers: XLA's products or cuDNN's kernel.

cuDNN never writes the matrix of scores to memory, so that the backward pass finds none of them.

Source: Vaswani et al. 2017, section 3.2.1, https://arxiv.org/abs/1706.03762; Dao et al. 2022,
    "FlashAttention", https://arxiv.org/abs/2205.14135 (what cuDNN computes).
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from clipjax.config.errors import UsageError
from clipjax.config.fields import AttentionImplementation
from clipjax.core.partition import constrain_heads

Queries = Float[Array, "batch tokens heads channels"]
Keys = Float[Array, "batch seen heads channels"]

_MULTIPLE = 8
_WIDEST_HEAD = 128
# Names of NVIDIA devices of a compute capability below 8.0, where it cannot be asked for.
_OLD = ("P100", "P40", "P4 ", "V100", "T4", "GTX", "TITAN", "RTX 20", "Quadro")

_fallbacks: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar(
    "fallbacks", default=None
)


def attend(
    query: Queries,
    key: Keys,
    value: Keys,
    *,
    causal: bool = False,
    mask: Bool[Array, "#batch 1 #tokens seen"] | None = None,
    lengths: Int32[Array, " batch"] | None = None,
    implementation: AttentionImplementation = "auto",
) -> Queries:
    """Returns what each query reads: softmax(query key^T / sqrt(channels)) value, head by head.

    Which kernel does it is decided while tracing, for the devices of the mesh that is set (which
    may be of a machine that is only compiled for), without one for JAX's own.

    Args:
        query: of the tokens that ask.
        key: of the tokens that answer.
        value: of the same.
        causal: no token sees those behind its own place.
        mask: which tokens each token can see; all by default. Only XLA takes one.
        lengths: how many tokens of each example can be seen, the first ones; all by default.
        implementation: see `ComputeConfig.attention`.

    Raises:
        UsageError: if `implementation` is cudnn, and it cannot be.
    """
    if implementation != "xla":
        reason = why_not_cudnn(query, key, causal=causal, masked=mask is not None)
        if reason is None:
            return padded(_cudnn, query, key, value, causal=causal, lengths=lengths)
        if implementation == "cudnn":
            _, tokens, heads, channels = query.shape
            raise UsageError(
                f"model.compute.attention='cudnn': cannot be for {tokens} tokens and {heads} heads "
                f"of {channels} channels: {reason}. Set it to 'auto', which takes XLA there."
            )
        found = _fallbacks.get()
        if found is not None and reason not in found:
            found.append(reason)
    return _xla(query, key, value, mask=mask, is_causal=causal, key_value_seq_lengths=lengths)


def why_not_cudnn(query: Queries, key: Keys, *, causal: bool, masked: bool) -> str | None:
    """Returns why cuDNN cannot compute an attention, or None if it can.

    Args:
        query: only shape and dtype matter.
        key: likewise.
        causal: no token sees those behind its own place.
        masked: there is a mask that is neither that nor a number of keys.
    """
    channels = query.shape[-1]
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it takes bfloat16 or float16, not {query.dtype}"
    if channels % 8 or channels > _WIDEST_HEAD:
        return (
            f"heads of {channels} channels are not a multiple of 8 of at most {_WIDEST_HEAD} wide"
        )
    if masked:
        return "a mask of single tokens; it takes none, causal ones and counts of keys"
    if causal and query.shape[1] != key.shape[1]:
        return f"a causal mask of {query.shape[1]} queries and {key.shape[1]} keys"
    return _why_not_here()


def _why_not_here() -> str | None:
    platform, kind = target()
    if platform != "gpu" or kind.startswith("AMD"):
        return f"it needs an NVIDIA GPU, not {kind or platform}"
    own = [device for device in jax.devices() if device.device_kind == kind]
    capability = getattr(own[0], "compute_capability", None) if own else None
    old = float(capability) < 8 if capability else any(name in kind for name in _OLD)
    return f"{kind} has a compute capability below 8.0" if old else None


def target() -> tuple[str, str]:
    """Returns platform and kind of the device that is traced for."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    device = jax.devices()[0] if device is None else device
    return device.platform, device.device_kind


def padded(
    attention: Callable[..., Array],
    query: Queries,
    key: Keys,
    value: Keys,
    *,
    causal: bool,
    lengths: Int32[Array, " batch"] | None,
) -> Queries:
    """Returns attention computed over numbers of tokens that are multiples of 8.

    In training cuDNN refuses odd ones, and those of CLIP are odd. Padding is behind the tokens: a
    causal token does not see it, otherwise the number of keys hides it, and its own rows are cut.

    Args:
        attention: takes query, key, value, `is_causal` and `key_value_seq_lengths`.
        query: of any number of tokens.
        key: likewise.
        value: likewise.
        causal: no token sees those behind its own place.
        lengths: how many keys of each example can be seen; all by default.
    """
    tokens, seen = query.shape[1], key.shape[1]
    if seen % _MULTIPLE and lengths is None and not causal:
        lengths = jnp.full(len(key), seen, jnp.int32)
    query, key, value = (_to_multiple(x) for x in (query, key, value))
    mixed = attention(query, key, value, is_causal=causal, key_value_seq_lengths=lengths)
    return mixed[:, :tokens]


def _to_multiple(x: Array) -> Array:
    missing = -x.shape[1] % _MULTIPLE
    return jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else x


def _xla(query: Array, key: Array, value: Array, **options: object) -> Array:
    if query.dtype == jnp.float16 and target()[0] == "cpu":
        # Of float16 XLA has no products there that are added up in float32, as these are.
        parts = (x.astype(jnp.float32) for x in (query, key, value))
        return jax.nn.dot_product_attention(*parts, **options).astype(query.dtype)  # type: ignore[arg-type]
    return jax.nn.dot_product_attention(query, key, value, **options)  # type: ignore[arg-type]


def _cudnn(query: Array, key: Array, value: Array, **options: object) -> Array:
    return jax.nn.dot_product_attention(
        constrain_heads(query),
        constrain_heads(key),
        constrain_heads(value),
        implementation="cudnn",
        **options,  # type: ignore[arg-type]
    )


@contextlib.contextmanager
def fallbacks_noted() -> Iterator[list[str]]:
    """Collects why the attentions that are traced inside are left to XLA under 'auto'."""
    found: list[str] = []
    token = _fallbacks.set(found)
    try:
        yield found
    finally:
        _fallbacks.reset(token)
