"""Random access to a prepared TensorFlow Datasets data set, without TensorFlow."""

import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipjax.config.errors import UserError, did_you_mean
from clipjax.data.decode import BadSampleError

TFDS_PREFIX = "tfds:"

_CAPTION_KEYS = ("caption", "title", "text")
_FIX = "Prepare it again with file_format='array_record'."


def parse_address(address: str) -> tuple[str, str]:
    """Returns name or folder, and split, of a `tfds:` address.

    >>> parse_address("tfds:coco_captions/2014:1.1.0:val[:50%]")
    ('coco_captions/2014:1.1.0', 'val[:50%]')
    >>> parse_address("tfds:/data/x/1.0.0")
    ('/data/x/1.0.0', 'train')
    """
    body = address.removeprefix(TFDS_PREFIX)
    match = re.fullmatch(r"(.+?)(?::([A-Za-z_][^/]*))?", body)
    if not match:
        raise UserError(f"{address!r}: names no data set. Expected tfds:NAME:SPLIT.")
    return match[1], match[2] or "train"


class TfdsSource:
    """The examples of one split, with their images as they were stored.

    "txt" is a text feature, or else the name of the class; "cls" the number of the class; "json"
    every feature that JSON can hold, those in a nested feature under "outer.inner". Threads may
    share an instance: reading a record is under a lock, since ArrayRecord's readers do not promise
    to be safe for threads; decoding it is not.

    Args:
        name_or_dir: a data set that was prepared in `data_dir`, or the folder of one version.
        split: as TFDS writes it, e.g. "train" or "train[:50%]".
        needs: members that are wanted, of "txt", "json" and "cls".
        image_key: the image feature; needed only if there are several.
        caption_key: the text or class feature of the captions; "outer/inner" for a nested one.
        data_dir: where prepared data sets lie; by default TFDS's own place.

    Raises:
        UserError: if the package or the data set is missing, or its files or features cannot be
            used; the text says what to do.
    """

    def __init__(
        self,
        name_or_dir: str,
        split: str = "train",
        *,
        needs: Sequence[str] = ("txt",),
        image_key: str | None = None,
        caption_key: str | None = None,
        data_dir: str | None = None,
    ):
        self._where = f"{TFDS_PREFIX}{name_or_dir}:{split}"
        self._needs = tuple(needs)
        self._builder = _open_builder(self._where, name_or_dir, data_dir)
        self._kinds = dict(_kinds(self._builder.info.features))
        self._image = self._choose_image(image_key)
        self._label = self._only("ClassLabel", prefer=("label",))
        self._caption = self._choose_caption(caption_key) if "txt" in self._needs else ""
        for need in self._needs:
            if need not in ("txt", "json", "cls") or (need == "cls" and not self._label):
                raise UserError(f"{self._where}: has no member .{need}; found {self._described()}.")
        self._lock = threading.Lock()
        self._records = self._open_records(split)

    @classmethod
    def at(
        cls,
        address: str,
        root: str,
        *,
        needs: Sequence[str] = ("txt",),
        image_key: str | None = None,
        caption_key: str | None = None,
    ) -> "TfdsSource":
        """Returns the source of `tfds:NAME[:SPLIT]` or `tfds:FOLDER[:SPLIT]`.

        Args:
            address: where the data set is.
            root: folder that a relative folder starts from.
            needs: members that are wanted.
            image_key: the image feature, if there are several.
            caption_key: the feature of the captions.

        Raises:
            UserError: if it cannot be used.
        """
        name, split = parse_address(address)
        folder = os.path.join(root, name)
        return cls(
            folder if os.path.isdir(folder) else name,
            split,
            needs=needs,
            image_key=image_key,
            caption_key=caption_key,
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes of "cls"; () where there is no class feature."""
        if not self._label:
            return ()
        feature = self._builder.info.features
        for name in self._label.split("."):
            feature = feature[name]
        return tuple(feature.names)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Mapping[str, bytes]:
        """Returns {"image": encoded bytes, "txt": ..., ...}: the image and what was needed.

        Raises:
            IndexError: if there is no such example.
            BadSampleError: if its record cannot be read or its caption is a list.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        try:
            with self._lock:
                record = self._records.data_source[index]
            example = dict(_flat(self._decode(record)))
        except ImportError as error:
            raise UserError(
                f"{self._where}: a feature cannot be read without another package ({error}); "
                f"found {self._described()}. Prepare the data set without it."
            ) from error
        except Exception as error:  # the kinds are not documented
            raise BadSampleError("damaged", f"{type(error).__name__}: {error}") from error
        out = {need: self._member(example, need) for need in self._needs}
        out["image"] = bytes(example[self._image])
        return out

    def key(self, index: int) -> str:
        """Returns "address: number" of an example, for messages."""
        return f"{self._where}: {index}"

    def digest(self) -> str:
        """Returns the hash of the files of the split and of what is read from them."""
        parts = [self._image, self._caption, *self._needs]
        for file in self._builder.info.splits[self._records.split].file_instructions:
            name, size = os.path.basename(file.filename), os.path.getsize(file.filename)
            parts.append(f"{name} {size} {file.skip} {file.take}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def close(self) -> None:
        """Closes the files; reading opens them again."""
        with self._lock:
            self._records.data_source.__exit__(None, None, None)

    def _decode(self, record: bytes) -> Mapping[str, Any]:
        return self._builder.info.features.deserialize_example_np(
            record, decoders=self._records.decoders
        )

    def _member(self, example: Mapping[str, Any], need: str) -> bytes:
        if need == "cls":
            return str(int(example[self._label])).encode()
        if need == "json":
            fields = {name: _plain(value) for name, value in example.items() if name != self._image}
            known = {name: value for name, value in fields.items() if value is not None}
            return json.dumps(known, ensure_ascii=False, sort_keys=True).encode(errors="replace")
        value = _plain(example[self._caption])
        if isinstance(value, list):
            raise BadSampleError(
                "no caption",
                f"{self._caption} is a list; read it with caption='json.{self._caption}'",
            )
        if self._kinds[self._caption] == "ClassLabel" and isinstance(value, int):
            value = self._class_name(value).replace("_", " ")
        return str(value or "").encode(errors="replace")

    def _class_name(self, number: int) -> str:
        feature = self._builder.info.features
        for name in self._caption.split("."):
            feature = feature[name]
        return feature.int2str(number) if number >= 0 else ""

    def _open_records(self, split: str) -> Any:
        import tensorflow_datasets as tfds

        found = getattr(self._builder.info.file_format, "value", "unknown")
        if found != "array_record":
            raise UserError(
                f"{self._where}: its file format is {found}, which allows no random access. {_FIX}"
            )
        skip: dict[str, Any] = {}
        for name, kind in self._kinds.items():
            if kind == "Image":
                level = skip
                *outer, last = name.split(".")
                for part in outer:
                    level = level.setdefault(part, {})
                level[last] = tfds.decode.SkipDecoding()
        known = list(self._builder.info.splits)
        try:
            if not self._builder.info.splits[split].num_examples:
                raise ValueError("it is empty")
            return self._builder.as_data_source(split, decoders=skip)
        except (ValueError, KeyError, AssertionError, OSError) as error:
            name = re.split(r"[\[+]", split)[0]
            hint = did_you_mean(name, known) if name not in known else ""
            raise UserError(
                f"{self._where}: the split cannot be read ({' '.join(str(error).split())[:150]}). "
                f"There are: {', '.join(known)}.{hint}"
            ) from error

    def _choose_image(self, given: str | None) -> str:
        if given:
            return self._named(given, ("Image",))
        found = self._only("Image", prefer=("image",))
        if not found:
            raise UserError(
                f"{self._where}: needs one image feature, or the name of one; "
                f"found {self._described()}."
            )
        return found

    def _choose_caption(self, given: str | None) -> str:
        if given:
            return self._named(given, ("Text", "ClassLabel"))
        usual = [name for name in _CAPTION_KEYS if self._kinds.get(name) == "Text"]
        found = usual[0] if usual else ""
        if not usual and "list of Text" not in self._kinds.values():  # else those are the captions
            found = self._only("Text", prefer=()) or self._label
        if not found:
            raise UserError(
                f"{self._where}: no caption: expected a text feature ({', '.join(_CAPTION_KEYS)}) "
                f"or a class; found {self._described()}. Name one, or read a list with "
                "caption='json.FEATURE'."
            )
        return found

    def _only(self, kind: str, *, prefer: Sequence[str]) -> str:
        found = [name for name, known in self._kinds.items() if known == kind]
        usual = [name for name in prefer if name in found]
        if usual:
            return usual[0]
        return found[0] if len(found) == 1 else ""

    def _named(self, given: str, kinds: Sequence[str]) -> str:
        name = given.replace("/", ".")
        if self._kinds.get(name) not in kinds:
            raise UserError(
                f"{self._where}: no {' or '.join(kinds)} feature {given!r}; found "
                f"{self._described()}.{did_you_mean(name, self._kinds)}"
            )
        return name

    def _described(self) -> str:
        return ", ".join(f"{name} ({kind})" for name, kind in sorted(self._kinds.items()))


def _open_builder(where: str, name_or_dir: str, data_dir: str | None) -> Any:
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.read_only_builder import builder_from_files
    except ImportError as error:
        raise UserError(
            f"{where}: tensorflow-datasets is not installed ({error}). Install it: "
            "pip install tensorflow-datasets array-record"
        ) from error
    try:
        if os.path.isdir(name_or_dir):
            return tfds.builder_from_directory(_version_folder(where, name_or_dir))
        options = {"data_dir": data_dir} if data_dir else {}
        return builder_from_files(name_or_dir, **options)
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        place = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        raise UserError(
            f"{where}: no such data set is prepared in {place}. Prepare it with "
            "file_format='array_record', or give its folder: tfds:/DIR/NAME/VERSION:SPLIT."
        ) from error
    except Exception as error:  # a folder of another kind fails in many ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
        raise UserError(
            f"{where}: cannot be opened ({reason}). Expected a data set that TFDS has prepared."
        ) from error


def _version_folder(where: str, folder: str) -> str:
    def described(path: str) -> bool:
        return os.path.isfile(os.path.join(path, "dataset_info.json"))

    if described(folder):
        return folder
    inner = sorted(name for name in os.listdir(folder) if described(os.path.join(folder, name)))
    if len(inner) != 1:
        found = f"the versions {', '.join(inner)}" if inner else "none and no version below it"
        raise UserError(
            f"{where}: expected a folder with a dataset_info.json, found {found}. Give the folder "
            "of one version, e.g. tfds:/DIR/NAME/1.0.0:train."
        )
    return os.path.join(folder, inner[0])


def _kinds(features: Any, prefix: str = "", of: str = "") -> Iterator[tuple[str, str]]:
    """Yields the name of each feature and of its class, "list of KIND" in a sequence."""
    for name, feature in features.items():
        in_list = of
        if type(feature).__name__ == "Sequence":
            feature, in_list = feature.feature, "list of "
        if hasattr(feature, "items"):
            yield from _kinds(feature, f"{prefix}{name}.", in_list)
        else:
            yield prefix + name, in_list + type(feature).__name__


def _flat(example: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of an example with the names that `_kinds` gives them."""
    for name, value in example.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it; None for what is not text and not a number."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if hasattr(value, "tolist"):
        value = value.tolist()
        return _plain(value) if isinstance(value, bytes) else _plain_list(value)
    if isinstance(value, list | tuple):
        return _plain_list(list(value))
    return value if isinstance(value, str | int | float | bool) else None


def _plain_list(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    found = [_plain(one) for one in value]
    return None if any(one is None for one in found) else found
