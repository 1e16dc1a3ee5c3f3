"""`certificate.json`: the proof that nothing changed on the way, and a guard for what comes after.

A conversion runs fixed inputs through what was read and through what was written, and notes how far
they differ, with everything about the model that its weights do not show: activations, epsilons,
preprocessing, ids, tokenizer. Whoever loads the folder later is refused when its config says
otherwise: weights of one GELU under the other load without a word and are a few points worse.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.config import (
    ComputeConfig,
    DualEncoderConfig,
    TextConfig,
    UsageError,
    UserError,
    from_config_dict,
    to_json_dict,
)
from clipjax.data.tokenizers import AbsentTokenizer, Tokenizer
from clipjax.interchange.same_model import model_differences, model_facts
from clipjax.models import with_params

CERTIFICATE = "certificate.json"
Outputs = dict[str, np.ndarray]

_VERSION = 1
_ROWS = 4
_SEED = 20_210_226
_KEPT = 32  # numbers of each embedding that are kept as a reference
_OUTPUTS = ("image_embeds", "text_embeds", "logits")
_CHUNK_BYTES = 1 << 22


def fixed_inputs(config: DualEncoderConfig) -> dict[str, np.ndarray]:
    """Returns `images` (uint8) and `tokens` (int32) that depend on the sizes of a model only.

    Texts have several lengths, and one fills its context.
    """
    draw = np.random.RandomState(_SEED)  # its stream is the same in every version of NumPy
    side, text = config.image.image_size, config.text
    images = draw.randint(0, 256, (_ROWS, side, side, 3)).astype(np.uint8)
    length, vocab = text.context_length, text.vocab_size
    pad = getattr(text, "pad_id", 0)
    end = text.eot_id if isinstance(text, TextConfig) else vocab - 1
    tokens = draw.randint(0, vocab, (_ROWS, length)).astype(np.int32)
    tokens[np.isin(tokens, (pad, end))] = next(i for i in range(vocab) if i not in (pad, end))
    for row in range(_ROWS):
        last = (length - 1) * (row + 1) // _ROWS
        tokens[row, last] = end
        tokens[row, last + 1 :] = pad
    return {"images": images, "tokens": tokens}


def outputs(config: DualEncoderConfig, params: Mapping[str, jax.Array]) -> Outputs:
    """Returns unit-length embeddings and logits of the fixed inputs, computed in float32."""
    exact = ComputeConfig(scan_layers=config.compute.scan_layers)
    config = dataclasses.replace(config, compute=exact)

    @jax.jit
    def forward(params: Mapping[str, jax.Array], images: jax.Array, tokens: jax.Array):
        model = with_params(config, params)
        image, text = model.encode_image(images), model.encode_text(tokens)
        logits = jnp.exp(params["log_logit_scale"]) * image @ text.T + params.get("logit_bias", 0.0)
        return image, text, logits

    inputs = fixed_inputs(config)
    with jax.default_matmul_precision("float32"):
        found = forward(params, jnp.asarray(inputs["images"]), jnp.asarray(inputs["tokens"]))
    return {
        name: np.asarray(array, np.float32) for name, array in zip(_OUTPUTS, found, strict=True)
    }


def differences(found: Outputs, expected: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Returns the largest and the mean absolute difference of each output.

    Args:
        found: embeddings and logits.
        expected: the same, or of each embedding the first numbers (a reference).
    """
    report = {}
    for name in _OUTPUTS:
        wanted = np.asarray(expected[name], np.float64)
        part = np.asarray(found[name], np.float64)[:, : wanted.shape[1]]
        gap = np.abs(part - wanted)
        report[name] = {"max": float(gap.max()), "mean": float(gap.mean())}
    return report


def reference_of(found: Outputs) -> dict[str, Any]:
    """Returns the part of the outputs that a certificate keeps."""
    kept = {name: found[name][:, :_KEPT] for name in ("image_embeds", "text_embeds")}
    kept["logits"] = found["logits"]
    return {name: array.astype(np.float64).round(9).tolist() for name, array in kept.items()}


def make_certificate(
    *,
    source: Mapping[str, Any],
    format_name: str,
    options: Mapping[str, Any],
    config: DualEncoderConfig,
    tokenizer: Tokenizer,
    weights: Path | None,
    checks: Mapping[str, Any],
    found: Outputs,
) -> dict[str, Any]:
    """Returns the certificate of a converted model.

    Args:
        source: where it comes from: format and name.
        format_name: of the result.
        options: of the layout of the result.
        config: as the result is read.
        tokenizer: as the result is read.
        weights: the file that was written; None for a checkpoint, which has its own checksums.
        checks: differences by what the result was compared with.
        found: outputs of the result.
    """
    facts = model_facts(config)
    pictures = ("pixel_mean", "pixel_std", "resize", "interpolation", "resize_side", "crop_offset")
    about = {
        "preprocessing": tuple(n for n in (*pictures, "image.image_size") if n in facts),
        "activation": tuple(name for name in facts if name.endswith(".activation")),
        "norm_eps": tuple(name for name in facts if name.endswith("_eps")),
        "ids": tuple(name for name in ("text.end_id", "text.pad_id") if name in facts),
    }
    return {
        "version": _VERSION,
        "source": dict(source),
        "format": format_name,
        "options": dict(options),
        "differences": dict(checks),
        **{part: {name: facts[name] for name in names} for part, names in about.items()},
        "tokenizer_sha256": _digest(tokenizer),
        "dtype": "float32",
        "weights": _weights(weights),
        "config": to_json_dict(config),
        "reference": reference_of(found),
    }


def check_certificate(
    path: Path,
    certificate: Mapping[str, Any],
    config: DualEncoderConfig,
    tokenizer: Tokenizer,
    weights: Path | None,
) -> None:
    """Raises UserError if a config describes another model than the certificate of its weights.

    Args:
        path: of the certificate, for messages.
        certificate: empty if there is none; then nothing is checked.
        config: as the files beside it say.
        tokenizer: as the files beside it say.
        weights: file of the weights, if it is one.
    """
    if not certificate:
        return
    certified, _ = certified_config(path, certificate)
    differing = model_differences(model_facts(config), model_facts(certified))
    if differing:
        told = ", ".join(f"{n} is {f!r}, certified {e!r}" for n, (f, e) in differing.items())
        raise UserError(
            f"{path.parent}: the config is not that of the weights: {told}. Bring the config back, "
            "or convert the weights again from their source."
        )
    digest, wanted = _digest(tokenizer), certificate.get("tokenizer_sha256")
    if digest is not None and wanted is not None and digest != wanted:
        raise UserError(
            f"{path.parent}: the tokenizer is not that of the weights: sha256 {digest[:16]}, "
            f"certified {wanted[:16]}. Bring its files back."
        )
    held = certificate.get("weights")
    if weights is not None and isinstance(held, Mapping):
        size = weights.stat().st_size
        if size != held.get("bytes"):
            raise UserError(
                f"{weights}: has {size:,} bytes, certified {held.get('bytes')!r}: these are other "
                f"weights than {path} speaks of. Bring them back, or remove the certificate."
            )


def certified_config(
    path: Path, certificate: Mapping[str, Any]
) -> tuple[DualEncoderConfig, Mapping[str, Any]]:
    """Returns the config and the options of the layout that a certificate holds.

    Raises:
        UserError: if there is no certificate, or it is damaged.
    """
    try:
        config = from_config_dict(DualEncoderConfig, certificate["config"])
        return config, dict(certificate["options"])
    except KeyError as error:
        raise UserError(
            f"{path}: no {error} in it, which says what the weights are. Name the model of a file "
            "of weights with --preset."
        ) from error
    except (UsageError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is damaged or of another version: {error}") from error


def _digest(tokenizer: Tokenizer) -> str | None:
    return None if isinstance(tokenizer, AbsentTokenizer) else tokenizer.digest()


def _weights(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def certificate_text(certificate: Mapping[str, Any]) -> str:
    """Returns the text of the file."""
    return json.dumps(certificate, indent=1) + "\n"


def worst(checks: Mapping[str, Any]) -> Iterable[tuple[str, float, float]]:
    """Yields what was compared with, and the largest difference of embeddings and of logits."""
    for against, report in checks.items():
        # Unlike Python's own max, this one does not lose a NaN.
        embeds = np.max([report[name]["max"] for name in ("image_embeds", "text_embeds")])
        yield against, float(embeds), report["logits"]["max"]
