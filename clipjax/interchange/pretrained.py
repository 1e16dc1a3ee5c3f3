"""What stands behind "hf:org/name", a path or the name of a preset: which model, which weights."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from clipjax.config import (
    PRESETS,
    DualEncoderConfig,
    MeshConfig,
    UserError,
    did_you_mean,
    preset,
)
from clipjax.core.checkpoint import MANIFEST
from clipjax.core.mesh import make_mesh
from clipjax.data.tokenizers import Tokenizer, tokenizer_from_json
from clipjax.interchange import hub
from clipjax.interchange.certificate import CERTIFICATE, check_certificate
from clipjax.interchange.formats import FORMATS, Format, Options, layout_of
from clipjax.interchange.load_weights import load_params, param_shardings
from clipjax.interchange.run_directory import checkpoint_config, pick_checkpoint, restore_params
from clipjax.interchange.tokenizer_files import absent_tokenizer, read_tokenizer
from clipjax.interchange.transfer import Tensors, check_tensors
from clipjax.interchange.weights_file import (
    INDEX_SUFFIX,
    PICKLE_SUFFIXES,
    open_tensors,
    pickle_refusal,
    read_json,
)
from clipjax.interchange.which_preset import fitting_variant, wrong_model
from clipjax.models import init_model_state, init_params

CLIPJAX = "clipjax"

Read = Callable[[DualEncoderConfig, Mesh], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model in files, opened and checked, its numbers not read yet.

    Attributes:
        spec: as it was given.
        format: of the files; "clipjax" for a run of ours, "preset" for a model without weights.
        config: of the model.
        options: of the layout.
        tokenizer: of the model.
        directory: where its files are; None for a preset.
        certificate: what a conversion wrote beside the weights; empty without.
        read: gives the parameters for a config and a mesh.
        step: of the checkpoint.
    """

    spec: str
    format: str
    config: DualEncoderConfig
    options: Options
    tokenizer: Tokenizer
    directory: Path | None
    certificate: Mapping[str, Any]
    read: Read
    step: int = 0

    def params(
        self, config: DualEncoderConfig | None = None, mesh: Mesh | None = None
    ) -> dict[str, jax.Array]:
        """Returns parameters and statistics by name, float32.

        Args:
            config: the same model, computed otherwise; its own by default.
            mesh: where they go; the first device by default.

        Raises:
            UserError: if the files do not hold the tensors of the model.
        """
        mesh = make_mesh(MeshConfig(), num_devices=1) if mesh is None else mesh
        return self.read(self.config if config is None else config, mesh)

    def identity(self) -> str:
        """Returns a hash that changes with the model: its config, its step and its weights.

        Of a checkpoint its checksums count, of other files names, sizes and times.
        """
        hashed = hashlib.sha256(repr((self.format, self.config, self.step)).encode())
        if self.directory is None:
            return hashed.hexdigest()
        if self.format == CLIPJAX:
            manifest = self.directory / "checkpoints" / f"{self.step:08d}" / MANIFEST
            hashed.update(manifest.read_bytes())
            return hashed.hexdigest()
        for path in sorted(self.directory.iterdir()):
            if path.is_file() and path.suffix in (".safetensors", ".npz", ".json"):
                stat = path.stat()
                hashed.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return hashed.hexdigest()


def open_pretrained(
    spec: str | os.PathLike[str], *, preset_name: str | None = None, step: int | None = None
) -> Pretrained:
    """Finds out which model the files are.

    Args:
        spec: "hf:org/name", a folder of one of the formats, the --workdir of a run, a file of
            weights, or the name of a preset (initial parameters).
        preset_name: of a file of weights, or of a folder that does not say what it is.
        step: of the checkpoint of a run; the newest whole one by default.

    Raises:
        UserError: if there is no model, or its certificate, config and weights disagree.
    """
    name = os.fspath(spec)
    path = hub.download(name) if name.startswith(hub.PREFIX) else Path(name)
    if path.is_dir():
        return _directory(name, path, preset_name, step)
    if path.is_file():
        return _file(name, path, preset_name)
    if name in PRESETS:
        return _untrained(name)
    raise UserError(
        f"{name}: no such file or folder, and no preset.{did_you_mean(name, PRESETS)} Give a path, "
        "hf:ORG/NAME, or the name of a preset."
    )


def _directory(name: str, path: Path, preset_name: str | None, step: int | None) -> Pretrained:
    if (path / "checkpoints").is_dir():
        return _run(name, path, step)
    known = format_of_directory(path)
    if known is not None:
        return _known_format(name, path, known)
    found = [file for file in sorted(path.iterdir()) if file.suffix in (".safetensors", ".npz")]
    if len(found) == 1 and (preset_name is not None or _by_shapes(open_tensors(found[0]))):
        return _file(name, found[0], preset_name)
    pickles = [file for file in sorted(path.iterdir()) if file.suffix in PICKLE_SUFFIXES]
    if pickles:
        raise UserError(pickle_refusal(str(pickles[0])))
    looked_for = ", ".join(f.config_file for f in FORMATS.values() if f.config_file)
    raise UserError(
        f"{name}: holds no model that is known: no finished checkpoint below checkpoints/, none of "
        f"{looked_for}. Name the model of a file of weights with --preset."
    )


def format_of_directory(path: Path) -> str | None:
    """Returns the format of a folder; None if no file of it says so."""
    if (path / CERTIFICATE).is_file():
        named = read_json(path / CERTIFICATE).get("format")
        if named in FORMATS and _weights_in(path, FORMATS[named]) is not None:
            return named
    there = [
        name
        for name, kind in FORMATS.items()
        if kind.config_file and (path / kind.config_file).is_file()
    ]
    with_weights = [n for n in there if _weights_in(path, FORMATS[n]) is not None]
    return next(iter(with_weights or there), None)


def _known_format(name: str, path: Path, format_name: str) -> Pretrained:
    kind = FORMATS[format_name]
    certificate = read_json(path / CERTIFICATE) if (path / CERTIFICATE).is_file() else {}
    config, options = _config_in(path, format_name, certificate)
    weights = _weights_in(path, kind)
    if weights is None:
        pickles = [file for file in sorted(path.iterdir()) if file.suffix in PICKLE_SUFFIXES]
        if pickles:
            raise UserError(pickle_refusal(str(pickles[0])))
        raise UserError(f"{name}: no weights in it: expected {' or '.join(kind.weights)}.")
    tokenizer = read_tokenizer(path, config)
    check_certificate(path / CERTIFICATE, certificate, config, tokenizer, weights)
    return Pretrained(
        spec=name,
        format=format_name,
        config=config,
        options=options,
        tokenizer=tokenizer,
        directory=path,
        certificate=certificate,
        read=_reader(format_name, options, config, open_tensors(weights)),
    )


def _config_in(
    path: Path, format_name: str, certificate: Mapping[str, Any]
) -> tuple[DualEncoderConfig, Options]:
    kind = FORMATS[format_name]
    if kind.read_config is None:
        from clipjax.interchange.certificate import certified_config

        return certified_config(path / CERTIFICATE, certificate)
    # Large ones are vocabularies, which no config needs.
    files = {
        file.name: read_json(file) for file in sorted(path.glob("*config.json")) if file.is_file()
    }
    try:
        return kind.read_config(files)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{path / kind.config_file}: describes no model ({type(error).__name__}: {error})."
        ) from error


def _weights_in(path: Path, kind: Format) -> Path | None:
    for name in kind.weights:
        index = name.removesuffix(".safetensors") + INDEX_SUFFIX
        for candidate in (name, index):
            if (path / candidate).is_file():
                return path / candidate
    return None


def _reader(format_name: str, options: Options, own: DualEncoderConfig, tensors: Tensors) -> Read:
    def read(config: DualEncoderConfig, mesh: Mesh) -> dict[str, jax.Array]:
        layout = layout_of(format_name, config, **options)
        try:
            check_tensors(layout, config, tensors)
        except UserError as error:
            raise UserError(wrong_model(error, own, tensors)) from error
        return load_params(layout, config, tensors, param_shardings(config, mesh))

    return read


def _file(name: str, path: Path, preset_name: str | None) -> Pretrained:
    tensors = open_tensors(path)  # first: a pickle is one whatever the preset
    if preset_name is None:
        told = _by_shapes(tensors)
        if told is None:
            raise UserError(
                f"{name}: a file of weights does not say which model it is. Name it with --preset "
                f"(preset=), e.g. {next(iter(PRESETS))}."
            )
        config, format_name, options = told
    else:
        config = preset(preset_name)
        format_name, options = fitting_variant(preset_name, config, tensors)
    return Pretrained(
        spec=name,
        format=format_name,
        config=config,
        options=options,
        tokenizer=read_tokenizer(path.parent, config),
        directory=path.parent,
        certificate={},
        read=_reader(format_name, options, config, tensors),
    )


def _by_shapes(tensors: Tensors) -> tuple[DualEncoderConfig, str, Options] | None:
    """Returns which model a file is where its tensors say it all."""
    for format_name, kind in FORMATS.items():
        if kind.from_shapes is None:
            continue
        try:
            config, options = kind.from_shapes(tensors.shapes())
        except UserError:
            continue  # the tensors of another format
        return config, format_name, options
    return None


def _run(name: str, path: Path, step: int | None) -> Pretrained:
    reader, step = pick_checkpoint(path, step)
    config = checkpoint_config(reader, step).model
    tokenizer = tokenizer_from_json(json.loads(reader.read(step, "tokenizer.json")))
    certificate = read_json(path / CERTIFICATE) if (path / CERTIFICATE).is_file() else {}
    if step == certificate.get("step"):
        check_certificate(path / CERTIFICATE, certificate, config, tokenizer, None)
    return Pretrained(
        spec=name,
        format=CLIPJAX,
        config=config,
        options={},
        tokenizer=tokenizer,
        directory=path,
        certificate=certificate,
        read=lambda wanted, mesh: restore_params(reader, step, wanted, mesh),
        step=step,
    )


def _untrained(name: str) -> Pretrained:
    config = preset(name)

    def read(wanted: DualEncoderConfig, mesh: Mesh) -> dict[str, jax.Array]:
        places = param_shardings(wanted, mesh)
        make = jax.jit(
            lambda: {**init_params(wanted, 0), **init_model_state(wanted)}, out_shardings=places
        )
        return make()

    return Pretrained(
        spec=name,
        format="preset",
        config=config,
        options={},
        tokenizer=absent_tokenizer(config, f"the preset {name} has no vocabulary."),
        directory=None,
        certificate={},
        read=read,
    )
