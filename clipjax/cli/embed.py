"""Writes the embeddings of shards, of their pictures and their captions, into files.

clipjax embed --model runs/quickstart --shards 'data/train/*.tar' --out embeddings
clipjax embed --model hf:org/name --shards data/photos --images --format parquet --out embeddings
clipjax embed --model runs/a --shards captions.tsv --texts --caption json.captions --out embeddings

DIR gets image_features.npy and text_features.npy (float32, unit rows, one a sample in the order of
the shards) and keys.txt, or features.parquet with the columns key, image and text; labels.npy where
every sample has a .cls file; and embed.json, which says what they are of. Samples that lack an
image or a caption are left out; a picture that does not decode has a row of zeros. The same command
goes on where it stopped.
"""

import argparse
import dataclasses
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.cli.configs import add_cluster_flags, cluster_from
from clipjax.cli.parser import Parser, add_model_flags
from clipjax.config import UsageError, UserError

if TYPE_CHECKING:
    from clipjax.data.opening import Sources
    from clipjax.inference.load import Model

RECORD = "embed.json"
_TABLE, _KEYS, _LABELS = "features.parquet", "keys.txt", "labels.npy"
_MOST_EXAMPLES = 10
_NO_LIMIT_SECONDS = 3e9  # how long it takes is up to the number of samples


def configure(parser: Parser) -> None:
    """Adds the flags."""
    add_model_flags(parser)
    parser.add_argument(
        "--shards",
        required=True,
        metavar="WHERE",
        help="a folder, a pattern of shards, a list or tfds:NAME:SPLIT, as in config.data.shards",
    )
    parser.add_argument(
        "--root", default=".", metavar="DIR", help="that WHERE is relative to (default: here)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--images", action="store_true", help="pictures only")
    which.add_argument("--texts", action="store_true", help="captions only")
    parser.add_argument(
        "--caption",
        default="txt",
        metavar="WHERE",
        help="as config.data.caption (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=["npy", "parquet"], default="npy", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=256, metavar="N", help="of all devices (default: 256)"
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="in which the towers compute (default: as the model's config says)",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace what DIR holds of another model or data"
    )
    add_cluster_flags(parser)


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Embeds; returns what embed.json holds, in process 0."""
    if args.batch_size < 1:
        raise UsageError(f"--batch_size={args.batch_size} is not positive.")
    from clipjax.config import DataConfig
    from clipjax.core.distributed import joined
    from clipjax.data.opening import Sources, open_address

    try:
        data = DataConfig(root=args.root, shards=args.shards, caption=args.caption)
    except ValueError as error:
        raise UsageError(f"clipjax embed: --{error}") from error
    with joined(cluster_from(args)) as lifeline:
        needs = () if args.images else _caption_members(args.caption)
        source = _told(lambda: open_address(args.shards, data, needs))
        lifeline.phase("load", _NO_LIMIT_SECONDS)
        from clipjax.inference.load import load

        model = load(
            args.model,
            step=args.step,
            preset=args.preset,
            all_devices=True,
            batch_size=args.batch_size,
        )
        lifeline.phase("embed", _NO_LIMIT_SECONDS)
        return _Embedding(args, model, Sources({"": source})).run()


class _Embedding:
    """One model over one source; every process does the same, and process 0 writes."""

    def __init__(self, args: argparse.Namespace, model: "Model", source: "Sources"):
        import jax

        from clipjax.data.resize import EvaluationTransform
        from clipjax.evals.dataset import Pictures

        self._args, self._model, self._source = args, model, source
        self._folder, self._primary = Path(args.out), jax.process_index() == 0
        self._encoder = model.encoder if args.dtype is None else model.encoder.in_dtype(args.dtype)
        self._kinds = (
            ["texts"] if args.texts else ["images"] if args.images else ["images", "texts"]
        )
        self._pictures = Pictures(
            len(source),
            lambda index: source[index]["image"],
            EvaluationTransform.of(model.config),
            keys=_Keys(source),
        )
        self._captions = _Captions(source, args.caption)
        about = [model.identity, source.digest(), args.caption, args.dtype or "", self._kinds]
        self._identity = hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def run(self) -> dict[str, Any] | None:
        """Does what is left to do."""
        from clipjax.core.distributed import broadcast_int

        record = self._finished() if self._primary else None
        if broadcast_int(record is not None):
            if record is not None:
                print(f"{self._folder}: is done already: {record['samples']:,} samples")
            return record
        started = time.monotonic()
        bad = {kind: self._embed(kind) for kind in self._kinds}
        if not self._primary:
            return None
        return self._finish(bad, time.monotonic() - started)

    def _finished(self) -> dict[str, Any] | None:
        """Returns what is done already; makes the folder.

        Raises:
            UserError: if there is something else, or the folder cannot be made.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            found = json.loads((self._folder / RECORD).read_text())
            files = [self._folder / name for name in found["files"]]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"--out={self._folder}: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError):
            found, files = {}, []  # of another program, or damaged
        same = found.get("identity") == self._identity
        if same and found.get("format") == self._args.format and all(p.is_file() for p in files):
            return found
        if not (same or self._args.force):
            raise UserError(
                f"--out={self._folder}: holds embeddings by {found.get('model', 'another model')} "
                f"of {found.get('shards', 'other data')}, which are not those asked for. Name "
                "another folder, or add --force to replace them."
            )
        (self._folder / RECORD).unlink()
        return None

    def _embed(self, kind: str) -> dict[str, Any]:
        """Embeds the pictures or the captions; returns which of them were bad."""
        items, write = self._pictures, self._encoder.write_images
        if kind == "texts":
            items, write = self._captions, self._encoder.write_texts
        said = f"embedding {kind}"
        if not self._primary:
            write(self._model.params, items, None, progress=said)  # type: ignore[arg-type]
            return {}
        with self._file(kind) as file:
            if file.done:
                print(f"going on behind {file.done:,} of {len(items):,} {kind}", file=sys.stderr)
            write(self._model.params, items, file, progress=said)  # type: ignore[arg-type]
            return self._bad(kind, file.array)

    def _bad(self, kind: str, rows: Any) -> dict[str, Any]:
        from clipjax.inference.feature_export import rows_of_zeros

        bad = rows_of_zeros(rows).tolist()
        names = [self._source.key(index) for index in bad[:_MOST_EXAMPLES]]
        examples = [
            f"{name}: {self._reason(kind, index)}" for name, index in zip(names, bad, strict=False)
        ]
        if bad:
            print(
                f"warning: {len(bad):,} of {len(rows):,} {kind} cannot be used and have rows of "
                f"zeros; the first is {examples[0]}",
                file=sys.stderr,
            )
        return {"count": len(bad), "examples": examples}

    def _reason(self, kind: str, index: int) -> str:
        import numpy as np

        from clipjax.data.decode import BadSampleError

        side = self._model.config.image.image_size
        try:
            if kind == "texts":
                return f"its embedding is zero ({self._captions[index]!r:.40})"
            self._pictures.fill(index, np.zeros((side, side, 3), np.uint8))
        except BadSampleError as error:
            return str(error)
        return "its embedding is zero"

    def _finish(self, bad: dict[str, dict[str, Any]], seconds: float) -> dict[str, Any]:
        from clipjax.core.files import replaced
        from clipjax.inference.feature_export import write_keys, write_labels, write_parquet

        keys, files = _Keys(self._source, bare=True), []
        if self._args.format == "npy":
            files += [_file_name(kind) for kind in self._kinds]
            write_keys(self._folder / _KEYS, keys)
            files.append(_KEYS)
        else:
            columns = {}
            for kind in self._kinds:
                with self._file(kind) as file:
                    columns[kind.removesuffix("s")] = file.array
            write_parquet(self._folder / _TABLE, keys, columns)
            files.append(_TABLE)
        labels = self._labels()
        if labels is not None:
            write_labels(self._folder / _LABELS, labels)
            files.append(_LABELS)
        record = {
            "model": str(self._args.model),
            "step": self._model.step,
            "shards": self._args.shards,
            "identity": self._identity,
            "format": self._args.format,
            "samples": len(self._source),
            "embed_dim": self._model.config.embed_dim,
            "dtype": self._args.dtype or self._model.config.compute.dtype,
            "files": files,
            "bad": bad,
            "seconds": round(seconds, 3),
        }
        with replaced(self._folder / RECORD) as file:
            file.write(json.dumps(record, indent=1).encode())
        for kind in self._kinds if self._args.format == "parquet" else ():
            with self._file(kind) as rows:
                rows.remove()
        print(
            f"{self._folder}: {len(self._source):,} samples x {self._model.config.embed_dim} "
            f"numbers in {', '.join(files)}"
        )
        return record

    def _file(self, kind: str) -> Any:
        from clipjax.inference.feature_files import FeatureFile

        path, dim = self._folder / _file_name(kind), self._model.config.embed_dim
        return FeatureFile(path, dim, len(self._source), f"{self._identity} {kind}")

    def _labels(self) -> Any:
        """Returns the classes, where every sample has one; None otherwise."""
        import numpy as np

        from clipjax.config import DataConfig
        from clipjax.data.decode import BadSampleError
        from clipjax.data.opening import Sources, open_address

        data = DataConfig(root=self._args.root, shards=self._args.shards)
        needs = () if self._args.images else _caption_members(self._args.caption)
        try:
            source = Sources({"": open_address(self._args.shards, data, (*needs, "cls"))})
        except UserError:
            return None
        if len(source) != len(self._source):
            print(f"{len(source):,} of {len(self._source):,} samples have a .cls file: no labels")
            return None
        try:
            found = [source.texts(i)["cls"].decode(errors="replace") for i in range(len(source))]
        except BadSampleError as error:
            print(f"a .cls file cannot be read ({error}): no labels")
            return None
        wrong = next((i for i, text in enumerate(found) if not text.strip().isdecimal()), None)
        if wrong is not None:
            print(f"{source.key(wrong)}: label {found[wrong]!r:.40} is no number: no labels")
            return None
        return np.array([int(text) for text in found], np.int64)


@dataclasses.dataclass(frozen=True)
class _Keys(Sequence[str]):
    """The keys of a source, with where each is or bare."""

    source: "Sources"
    bare: bool = False

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: Any) -> Any:
        key = self.source.key(index)
        return key.rpartition(": ")[2] if self.bare else key


@dataclasses.dataclass(frozen=True)
class _Captions:
    """The captions of a source, read when they are asked for; of several the first."""

    source: "Sources"
    caption: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int, /) -> str:
        from clipjax.data.captions import choose_caption

        return choose_caption(self.source.texts(index), self.caption)


def _caption_members(caption: str) -> tuple[str, ...]:
    from clipjax.data.captions import caption_members

    return caption_members(caption)


def _file_name(kind: str) -> str:
    return f"{kind.removesuffix('s')}_features.npy"


def _told(open_it: Callable[[], Any]) -> Any:
    """Returns a source; says which samples it leaves out, and calls the flag by its name."""
    from clipjax.data.sources.tar_shards import TarShards

    try:
        source = open_it()
    except UserError as error:
        text = re.sub(r"(--)?(config\.)?\bdata\.(shards|root)\b", r"--\3", str(error))
        raise type(error)(text) from error
    if isinstance(source, TarShards) and source.num_incomplete:
        print(
            f"{source.num_incomplete:,} samples lack an image or what was asked for and are left "
            f"out; the first is {source.example_incomplete}",
            file=sys.stderr,
        )
    return source


if __name__ == "__main__":
    from clipjax.cli.main import main

    main(["embed", *sys.argv[1:]])
