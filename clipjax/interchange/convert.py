"""One model, other files: read, written, read again and compared, then put in place."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipjax.config import ComputeConfig, DualEncoderConfig, UserError
from clipjax.core.checkpoint import write_atomically
from clipjax.core.files import replaced_folder
from clipjax.core.metrics import strict_json
from clipjax.core.progress import Progress
from clipjax.interchange.certificate import (
    CERTIFICATE,
    Outputs,
    certificate_text,
    differences,
    make_certificate,
    outputs,
    worst,
)
from clipjax.interchange.formats import FORMATS, format_of, layout_of
from clipjax.interchange.layout import Layout, Shape
from clipjax.interchange.npz_file import write_npz
from clipjax.interchange.pretrained import CLIPJAX, Pretrained, open_pretrained
from clipjax.interchange.run_directory import write_run
from clipjax.interchange.safetensors_file import write_safetensors
from clipjax.interchange.same_model import HEADS, model_differences, model_facts
from clipjax.interchange.tokenizer_files import write_tokenizer
from clipjax.interchange.transfer import unrolled_shapes, written

# Of unit-length embeddings in float32: sums in another order stay well below, another GELU above.
_MOST_DIFFERENCE = 1e-4

# Embeds the fixed inputs with the implementation that a folder was made for: (folder, format,
# config) to outputs; None where it is not installed.
Rival = Callable[[Path, str, DualEncoderConfig], Outputs | None]


def targets() -> list[str]:
    """Returns the names that `convert` can write."""
    return [CLIPJAX, *(name for name, kind in FORMATS.items() if kind.weights)]


def convert(
    source: Pretrained,
    destination: Path,
    to: str,
    *,
    force: bool = False,
    rival: Rival | None = None,
) -> dict[str, Any]:
    """Writes a model in another format and returns its certificate.

    The folder appears when all is written and compared; until then nothing is changed.

    Args:
        source: the model.
        destination: folder to write.
        to: name of the format.
        force: replace the folder if it exists.
        rival: embeds with the implementation of another codebase.

    Raises:
        UserError: if the folder exists, the format cannot hold the model, or the result is not
            the same model.
    """
    if to != CLIPJAX:
        format_of(to)
        if (head := source.config.head.kind) != "linear":
            raise UserError(
                f"{to} cannot hold model.head.kind={head!r}: what reads it would compute other "
                f"embeddings. Convert to {CLIPJAX}."
            )
    if (destination.exists() or destination.is_symlink()) and not force:
        raise UserError(f"{destination}: is there already. Give another name, or --force.")
    # Layers one by one, as files name them, and exact; without what no embedding needs.
    bare: Any = dict.fromkeys(HEADS)
    config = dataclasses.replace(source.config, compute=ComputeConfig(), **bare)
    params = source.params(config)
    expected = outputs(config, params)
    checks: dict[str, Any] = {}
    if reference := source.certificate.get("reference"):
        checks["reference in the source's certificate"] = differences(expected, reference)
    if rival is not None and source.directory is not None:
        theirs = rival(source.directory, source.format, config)
        if theirs is not None:
            checks[f"source in {source.format}"] = differences(expected, theirs)
    try:
        with replaced_folder(destination.absolute()) as folder:
            weights = _write(folder, source, config, params, to)
            del params
            result = open_pretrained(folder)
            found = outputs(result.config, result.params())
            checks["source files, read by clipjax"] = differences(found, expected)
            if rival is not None and to != CLIPJAX:
                theirs = rival(folder, to, result.config)
                if theirs is not None:
                    checks[f"result in {to}"] = differences(found, theirs)
            _same(destination, checks)
            certificate = make_certificate(
                source={
                    "format": source.format,
                    "name": Path(source.spec).name,
                    "step": source.step,
                },
                format_name=to,
                options=result.options,
                config=result.config,
                tokenizer=result.tokenizer,
                weights=weights,
                checks=checks,
                found=found,
            )
            if to == CLIPJAX:
                certificate["step"] = 0
            write_atomically(folder / CERTIFICATE, certificate_text(certificate).encode())
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror}).") from error
    return certificate


def _same(destination: Path, checks: Mapping[str, Any]) -> None:
    for against, embeds, _ in worst(checks):
        if not embeds <= _MOST_DIFFERENCE:
            raise UserError(
                f"{destination}: not written: compared with {against}, embeddings of the fixed "
                f"inputs differ by {embeds:.2g}, expected at most {_MOST_DIFFERENCE:g}. The "
                "source's config does not describe its weights, or its format is not read right."
            )


def _write(
    folder: Path,
    source: Pretrained,
    config: DualEncoderConfig,
    params: Mapping[str, jax.Array],
    to: str,
) -> Path | None:
    if to == CLIPJAX:
        record = {"converted_from": source.format}
        # Layers stacked or not, and with the heads, as the source has them.
        headed = any(getattr(source.config, name) is not None for name in HEADS)
        saved = source.params() if headed or source.config.compute.scan_layers else params
        write_run(folder, source.config, saved, source.tokenizer, record)
        return None
    left_out = [f"model.{name}" for name in HEADS if getattr(source.config, name) is not None]
    if left_out:
        print(
            f"warning: {to} has no place for {' and '.join(left_out)}: left out; the embeddings "
            "are the same.",
            file=sys.stderr,
        )
    options = _write_configs(folder, config, to)
    write_tokenizer(folder, source.tokenizer, config, to)
    kind, layout = FORMATS[to], layout_of(to, config, **options)
    arrays = {name: np.asarray(array) for name, array in params.items()}
    path = folder / kind.weights[0]
    specs = tensor_specs(layout, config)
    with Progress(f"writing {path.name}", len(specs), "tensors", quiet_seconds=2.0) as progress:

        def each():
            for name, array in written(layout, config, arrays):
                yield name, array
                progress.advance()

        if path.suffix == ".npz":
            write_npz(path, each())
        else:
            write_safetensors(path, specs, each(), metadata=kind.metadata)
    return path


def _write_configs(folder: Path, config: DualEncoderConfig, to: str) -> Mapping[str, Any]:
    """Writes the JSON files and returns the options of the layout that they stand for."""
    kind = FORMATS[to]
    if kind.write_config is None or kind.read_config is None:
        return kind.variants[0]
    files = kind.write_config(config)
    said, options = kind.read_config(files)
    lost = model_differences(model_facts(said), model_facts(config))
    if offset := lost.pop("crop_offset", None):
        # No codebase lets one choose it; the certificate says what the result has.
        print(
            f"warning: {to} cuts an odd number of pixels {offset[0]!r}, not {offset[1]!r}: "
            "pictures of some sizes are seen one pixel further.",
            file=sys.stderr,
        )
    if lost:
        told = ", ".join(f"{n}={e!r} (they would say {f!r})" for n, (f, e) in lost.items())
        raise UserError(f"files of {to} cannot say {told}. Convert to another format.")
    for name, content in files.items():
        (folder / name).write_text(strict_json(content, indent=1) + "\n", encoding="utf-8")
    return options


def tensor_specs(layout: Layout, config: DualEncoderConfig) -> dict[str, tuple[Shape, np.dtype]]:
    """Returns shape and type of the tensors of a model, in the order in which they are written."""
    ours, float32 = unrolled_shapes(config), np.dtype(np.float32)
    specs = {
        theirs: (entry.their_shape(ours[entry.ours]), float32)
        for entry in layout.entries
        for theirs in entry.theirs
    }
    fixed = {name: (array.shape, array.dtype) for name, array in layout.fixed.items()}
    return {**specs, **fixed}
