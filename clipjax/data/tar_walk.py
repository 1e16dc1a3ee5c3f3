"""Walks over the members of a tar, past damage, and counts what was lost."""

import dataclasses
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from clipjax.config.errors import UserError
from clipjax.data.tar_damage import DamageCounter
from clipjax.data.tar_header import (
    BLOCK,
    DEVICES,
    DIRECTORY,
    LINKS,
    LONG_LINK,
    LONG_NAME,
    PAX,
    PAX_GLOBAL,
    REGULAR,
    SPARSE,
    ZEROS,
    Header,
    find_headers,
    is_plausible,
    padded,
    parse_header,
    pax_records,
    read_number,
)
from clipjax.data.tar_window import Read, Window

_STREAM_BYTES = 4 << 20
_FIRST_SCAN_BYTES, _SCAN_BYTES = 16 << 10, 1 << 20
_MOST_EXTENSION_BYTES = 1 << 20
_NAME_BYTES = 100


class Member(NamedTuple):
    """A regular file of a tar.

    Attributes:
        name: as in the tar; bytes that are not UTF-8 are escaped as lone surrogates.
        offset: of the first byte of the content.
        size: bytes of the content.
        header_crc: CRC-32 of the 512 bytes before the content.
        crc: CRC-32C of the content; 0 when contents are not read.
        after_gap: something may be missing between the member before and this one.
        checked_name: the name lies in the header, whose checksum covers it.
    """

    name: str
    offset: int
    size: int
    header_crc: int
    crc: int
    after_gap: bool
    checked_name: bool


class TarWalk:
    """The regular members of a tar, in order; what is damaged is passed over and counted.

    In step with the archive only the place behind the last member is looked at, so that a tar
    inside a member is content. After a damaged header the next block that is a header beyond doubt
    is searched for, at any byte; the member that is found there is marked `after_gap`.

    Args:
        read: gives bytes of the file.
        size: of the file.
        damage: counts what is wrong.
        checksums: also read the contents, for `Member.crc`.
        repeats: the attribute of an earlier walk over the same tar.

    Attributes:
        num_headers: valid headers so far.
        repeats: the kinds of names ("long", "short") that the writer of this tar puts before a
            header because they do not fit, and again, as far as they fit, into the header.
    """

    def __init__(
        self,
        read: Read,
        size: int,
        damage: DamageCounter,
        *,
        checksums: bool,
        repeats: Iterable[str] = (),
    ):
        self._window = Window(read, size, _STREAM_BYTES if checksums else 0)
        self._extend = _crc32c() if checksums else None
        self._size = size
        self._damage = damage
        self._globals: dict[bytes, bytes] = {}
        self._renames = False  # extension headers of this tar carry names
        self._unrepeated: set[str] = set()
        self._found_at = -1  # the last header that was searched for
        self.num_headers = 0
        self.repeats = set(repeats)

    def __iter__(self) -> Iterator[Member]:
        position, gap, ended = 0, False, False
        extension = _Extension()
        while position < self._size:
            block = self._window.at(position, BLOCK)
            if block == ZEROS[: len(block)]:
                if extension.seen:
                    self._damage.add("truncated", position)
                position = self._found_at = self._after_zeros(position)
                gap, ended, extension = True, True, _Extension()
                continue
            header = parse_header(block)
            if header is None:
                self._damage.add(
                    "header checksum" if len(block) == BLOCK else "truncated", position
                )
                position = self._found_at = self._resynchronise(position)
                gap, ended, extension = True, self._ends_in_zeros(position), _Extension()
                continue
            self.num_headers += 1
            ended = False
            start = position + BLOCK
            if header.kind in (LONG_NAME, LONG_LINK, PAX_GLOBAL) or header.kind in PAX:
                position = self._read_extension(header, position, extension)
                continue
            name, size = self._name(header, extension), self._content_size(header, extension)
            if size < 0 or start + size > self._size:
                position = self._found_at = self._after_wrong_size(header, size, name, position)
                gap, ended, extension = True, True, _Extension()
                continue
            content = start
            if header.kind == SPARSE:
                content = self._after_sparse_maps(start, block)
            if self._is_wanted(header, name, extension, position):
                yield Member(
                    name,
                    start,
                    size,
                    zlib.crc32(block),
                    self._content_crc(start, size),
                    gap,
                    extension.name is None,
                )
                gap = False
            elif extension.broken:
                gap = True
            position = content + padded(size)
            extension = _Extension()
        self._finish(ended, extension)

    def _finish(self, ended: bool, extension: "_Extension") -> None:
        if extension.seen:
            self._damage.add("truncated", self._size)
        elif not ended:
            self._damage.add("no end mark", self._size)

    def _ends_in_zeros(self, position: int) -> bool:
        """Says whether a search that came to the end of the file met an end mark there."""
        at_end = position == self._size > BLOCK
        return at_end and self._window.at(self._size - BLOCK, BLOCK) == ZEROS

    def _after_wrong_size(self, header: Header, size: int, name: str, position: int) -> int:
        """Returns where to go on when a content would reach beyond the file."""
        if size != header.size:  # a record says so, which no checksum covers
            self._damage.add("bad extension", position)
            return self._resynchronise(position)
        self._damage.add("truncated", name)
        self._damage.lost_bytes += self._size - position
        return self._size

    def _read_extension(self, header: Header, position: int, extension: "_Extension") -> int:
        """Reads a header that speaks of the next one; returns where that lies."""
        start, extension.seen = position + BLOCK, header.kind != PAX_GLOBAL
        if start + header.size > self._size:
            return self._size
        if header.size > _MOST_EXTENSION_BYTES:
            self._damage.add("bad extension", position)
            extension.broken = True
        elif header.kind == LONG_NAME:
            extension.name = self._window.at(start, header.size).partition(b"\0")[0]
            self._renames = True
        elif header.kind != LONG_LINK:
            try:
                records = pax_records(self._window.at(start, header.size))
            except ValueError:
                self._damage.add("bad extension", position)
                extension.broken = True
            else:
                (self._globals if header.kind == PAX_GLOBAL else extension.records).update(records)
                self._renames |= b"path" in records
        return start + padded(header.size)

    def _name(self, header: Header, extension: "_Extension") -> str:
        path = extension.records.get(b"path", self._globals.get(b"path"))
        if path is not None:
            extension.name = path.rstrip(b"/")
        if extension.name is not None:
            self._check_name(header.name, extension)
        name = header.name if extension.name is None else extension.name
        return name.decode(errors="surrogateescape")

    def _check_name(self, field: bytes, extension: "_Extension") -> None:
        """Compares the name before a header with the one in it, where the writer repeats names.

        A lost range can lead from the extension of one member to the header of another.
        """
        assert extension.name is not None
        kind = "long" if len(extension.name) > _NAME_BYTES else "short"
        if _stands_for(field, extension.name):
            self.repeats.add(kind)
        elif kind in self.repeats:
            extension.broken = True
        else:
            self._unrepeated.add(kind)

    @property
    def is_doubtful(self) -> bool:
        """Whether names were believed that others, found later, show to be wrong: walk again."""
        return bool(self._unrepeated & self.repeats)

    def _content_size(self, header: Header, extension: "_Extension") -> int:
        """Returns the bytes that follow the header; -1 where a record gives no number."""
        if header.kind in LINKS or header.kind in DEVICES or header.kind == DIRECTORY:
            return 0  # their size field may be set, no content follows
        stated = extension.records.get(b"size", self._globals.get(b"size"))
        if stated is None:
            return header.size
        return int(stated) if stated.isdigit() and len(stated) < 20 else -1

    def _is_wanted(self, header: Header, name: str, extension: "_Extension", position: int) -> bool:
        """Says whether this is a regular file whose name can be believed; counts it otherwise."""
        kind, reason = header.kind, ""
        if kind in LINKS:
            reason = "link"
        elif kind in DEVICES:
            reason = "device"
        elif kind == DIRECTORY:
            reason = "directory"
        elif kind == SPARSE or any(k.startswith(b"GNU.sparse.") for k in extension.records):
            reason = "sparse"
        elif kind not in REGULAR:
            reason = "unknown type"
        elif not name or extension.broken:
            reason = "bad name"
        elif position == self._found_at and (self._renames or _may_be_cut(header.name)):
            reason = "bad name"  # the extension header with the whole name may be what was lost
        if not reason:
            return True
        self._damage.add(reason, name or position)
        return False

    def _after_sparse_maps(self, start: int, block: bytes) -> int:
        more = block[482]
        while more and start < self._size:
            following = self._window.at(start, BLOCK)
            more = following[504] if len(following) == BLOCK else 0
            start += BLOCK
        return start

    def _content_crc(self, start: int, size: int) -> int:
        if self._extend is None:
            return 0
        crc = 0
        for piece in self._window.pieces(start, size):
            crc = self._extend(crc, piece)
        return crc

    def _after_zeros(self, position: int) -> int:
        """Returns the next header after a run of zeros, or the end of the file."""
        nonzero = self._next_nonzero(position)
        if nonzero == self._size:
            return nonzero
        start = position + (nonzero - position) // BLOCK * BLOCK
        self._damage.add("zero blocks", position)
        return start if self._is_header(start) else self._resynchronise(start)

    def _next_nonzero(self, position: int) -> int:
        while position < self._size:
            data = self._window.at(position, min(_SCAN_BYTES, self._size - position))
            zeros = len(data) - len(data.lstrip(b"\0"))
            position += zeros
            if zeros < len(data):
                break
        return position

    def _is_header(self, position: int) -> bool:
        block = self._window.at(position, BLOCK)
        header = parse_header(block)
        return header is not None and self._fits(position, block, header)

    def _fits(self, position: int, block: bytes, header: Header) -> bool:
        return is_plausible(block, header) and position + BLOCK + header.size <= self._size

    def _resynchronise(self, position: int) -> int:
        """Returns the next header after a block that is none, or the end of the file."""
        found = self._where_it_says(position)
        if found is None:
            found = self._search(position)
        self._damage.lost_bytes += found - position
        return found

    def _where_it_says(self, position: int) -> int | None:
        """Returns the place behind a damaged header's content where that is sure.

        So the content itself, which may be a tar, need not be searched.
        """
        block = self._window.at(position, BLOCK)
        size = read_number(block[124:136]) if len(block) == BLOCK else None
        if size is None or position + BLOCK + size >= self._size:
            return None
        place = position + BLOCK + padded(size)
        if self._is_header(place):
            return place
        at_end = place < self._size <= place + _SCAN_BYTES
        return place if at_end and self._next_nonzero(place) == self._size else None

    def _search(self, position: int) -> int:
        length = _FIRST_SCAN_BYTES
        while position < self._size:
            data = self._window.at(position, min(length, self._size - position))
            for place, header in find_headers(data):
                # The first place is the damaged header, or was the last one of the stretch before.
                if place and position + place + BLOCK + header.size <= self._size:
                    return position + place
            if position + len(data) >= self._size:
                break
            position += len(data) - BLOCK
            length = min(4 * length, _SCAN_BYTES)
        return self._size


@dataclasses.dataclass
class _Extension:
    """What the headers before a header say of it."""

    name: bytes | None = None
    records: dict[bytes, bytes] = dataclasses.field(default_factory=dict)
    seen: bool = False
    broken: bool = False


def _may_be_cut(name: bytes) -> bool:
    """Says whether this may stand in for a name that does not fit into a header."""
    signs = b"?" in name or b"GNUSparseFile" in name or not name.isascii()
    return signs or len(name) >= _NAME_BYTES - 1


def _stands_for(field: bytes, name: bytes) -> bool:
    """Says whether a header's name is what writers put there for a name that does not fit."""
    name = name.partition(b"\0")[0]
    text = name.decode(errors="surrogateescape")
    candidates = (name, text.encode("ascii", "replace"), text.encode("ascii", "ignore"))
    return any(field in (c[:_NAME_BYTES], c[: _NAME_BYTES - 1]) for c in candidates)


def _crc32c() -> Callable[[int, bytes], int]:
    try:
        import google_crc32c
    except ImportError as error:
        raise UserError(
            "checksums of shards need the package google-crc32c: pip install google-crc32c"
        ) from error
    return google_crc32c.extend
