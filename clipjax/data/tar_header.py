"""One 512-byte tar header: what it says, and whether it is one at all.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar 1.35
manual, "Basic Tar Format".
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
ZEROS = bytes(BLOCK)

REGULAR = frozenset((b"0", b"\0", b"7"))
LINKS = frozenset((b"1", b"2"))
DEVICES = frozenset((b"3", b"4", b"6"))
DIRECTORY = b"5"
SPARSE = b"S"
LONG_NAME, LONG_LINK = b"L", b"K"
PAX, PAX_GLOBAL = frozenset((b"x", b"X")), b"g"

_KINDS = frozenset(b"01234567\0SLKxXgDMNV")
_OCTAL = re.compile(rb"[ ]*[0-7]*[ \0]*(?:\0.*)?", re.DOTALL)
_MAGIC = re.compile(rb"ustar(?:\0|  \0)")
_MAGIC_AT = 257
_V7_MAGIC = bytes(8)
_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148))  # mode, uid, gid, mtime


class Header(NamedTuple):
    """The fields of a header that say which bytes belong to which name."""

    name: bytes
    kind: bytes
    size: int


def parse_header(block: bytes) -> Header | None:
    """Returns the fields of a header, or None where checksum or size show that it is none.

    >>> parse_header(bytes(512)) is None
    True
    """
    if len(block) != BLOCK:
        return None
    field = block[148:156]
    stated = read_number(field)
    if not stated:
        return None
    total = sum(block) - sum(field) + 256  # its own field counts as eight spaces
    if total != stated:
        high = sum(byte >= 128 for byte in block) - sum(byte >= 128 for byte in field)
        if total - 256 * high != stated:  # some old writers summed signed bytes
            return None
    size = read_number(block[124:136])
    if size is None:
        return None
    name = block[:100].partition(b"\0")[0]
    kind = block[156:157]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    if kind == b"\0" and name.endswith(b"/"):
        kind = DIRECTORY
    return Header(name, kind, size)


def read_number(field: bytes) -> int | None:
    """Returns the number in an octal or base-256 field, or None; negative ones are none.

    >>> read_number(b"0000017" + bytes(1)), read_number(bytes([128, 0, 1, 2])), read_number(b"9")
    (15, 258, None)
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if not _OCTAL.fullmatch(field):
        return None
    return int(field.partition(b"\0")[0].strip() or b"0", 8)


def is_plausible(block: bytes, header: Header) -> bool:
    """Tells a header from content whose sum happens to be right; for a reader out of step."""
    magic = block[_MAGIC_AT : _MAGIC_AT + 8]
    return (
        (magic == _V7_MAGIC or _MAGIC.match(magic) is not None)
        and bool(header.name)
        and header.kind[0] in _KINDS
        and all(
            block[first] == 0xFF or read_number(block[first:end]) is not None
            for first, end in _NUMBERS
        )
    )


def find_headers(data: bytes) -> Iterator[tuple[int, Header]]:
    """Yields (place, header) of the plausible headers that lie wholly in `data`, in order.

    Those with a magic word are found at any byte, since a lost or added range shifts all that
    follows it; the older kind only at multiples of 512.
    """
    places = {match.start() - _MAGIC_AT for match in _MAGIC.finditer(data)}
    for place in range(0, len(data) - BLOCK + 1, BLOCK):
        magic = data[place + _MAGIC_AT : place + _MAGIC_AT + 8]
        if magic == _V7_MAGIC and data[place]:
            places.add(place)
    for place in sorted(places):
        if place < 0:
            continue
        block = data[place : place + BLOCK]
        header = parse_header(block)
        if header is not None and is_plausible(block, header):
            yield place, header


def pax_records(body: bytes) -> dict[bytes, bytes]:
    """Returns the records of a pax extended header.

    >>> pax_records(b"12 path=a.b" + bytes([10]))
    {b'path': b'a.b'}

    Raises:
        ValueError: if a record's length does not lead to its end.
    """
    records: dict[bytes, bytes] = {}
    start = 0
    while start < len(body) and body[start]:
        digits = body[start : start + 20].partition(b" ")[0]
        if not digits.isdigit():
            raise ValueError("a pax record without a length")
        end = start + int(digits)
        keyword, equals, value = body[start + len(digits) + 1 : end].partition(b"=")
        if not (keyword and equals and value.endswith(b"\n") and end <= len(body)):
            raise ValueError("a pax record of another length")
        records[keyword] = value[:-1]
        start = end
    return records


def padded(size: int) -> int:
    """Returns the bytes that a content of `size` takes in a tar."""
    return -(-size // BLOCK) * BLOCK
