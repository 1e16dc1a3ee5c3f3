import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.data.tar_header import (
    BLOCK,
    find_headers,
    is_plausible,
    padded,
    parse_header,
    pax_records,
    read_number,
)


def header(name="a.jpg", size=5, **fields):
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def v7(name=b"a.jpg", size=5):
    """A header as it was before there was a magic word."""
    block = bytearray(header(name.decode(), size))
    block[257:] = bytes(BLOCK - 257)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@given(
    st.text("abc/.é-", min_size=1, max_size=40),
    st.sampled_from([0, 1, 511, 8**11 - 1, 8**11, 2**40, 2**70]),
    st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"S", b"x"]),
)
def test_fields_are_those_that_tarfile_wrote(name, size, kind):
    """8^11 and more do not fit into octal digits: base 256."""
    block = header(name, size, type=kind)
    found = parse_header(block)
    if kind == tarfile.DIRTYPE and name.strip("/"):  # tarfile marks folders so, and only once
        name = name if name.endswith("/") else f"{name}/"
    assert found == (name.encode(), kind, size)
    assert is_plausible(block, found)


def test_a_prefix_belongs_to_the_name_only_where_the_format_has_one():
    info = tarfile.TarInfo("d" * 80 + "/" + "f" * 80)
    assert parse_header(info.tobuf(tarfile.USTAR_FORMAT)).name == info.name.encode()
    gnu = bytearray(header("f"))
    gnu[345:356] = b"%011o" % 1700000000  # the time of the last access, in an incremental dump
    gnu[148:156] = b" " * 8
    gnu[148:156] = b"%06o\0 " % sum(gnu)
    assert parse_header(bytes(gnu)).name == b"f"


@pytest.mark.parametrize("change", [1, 64, 128, 255])
def test_every_changed_byte_outside_the_sum_is_noticed(change):
    for place in [*range(148), *range(156, BLOCK)]:
        block = bytearray(header("é" * 20, 1234))
        block[place] ^= change
        assert parse_header(bytes(block)) is None


def test_a_sum_over_signed_bytes_is_right_too():
    block = bytearray(header("é"))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(b - 256 * (b > 127) for b in block)
    assert parse_header(bytes(block)).name == "é".encode()


@pytest.mark.parametrize("block", [b"", bytes(BLOCK), b"\xff" * BLOCK, b"x" * BLOCK, bytes(511)])
def test_what_is_no_header_gives_none(block):
    assert parse_header(block) is None


@given(st.binary(max_size=1600))
def test_random_bytes_hold_no_header(data):
    assert list(find_headers(data)) == []


@pytest.mark.parametrize(
    ("field", "number"),
    [
        (b"0000012\0", 10),
        (b"     12 ", 10),
        (b"12\0junk!", 10),
        (b"\0" * 8, 0),
        (b"00000128", None),
        (b"-0000012", None),
        (b"0o000012", None),
        (b"1_000000", None),
        (b"\x80" + (10**6).to_bytes(7, "big"), 10**6),
        (b"\xff" * 8, None),
    ],
)
def test_numbers(field, number):
    assert read_number(field) == number


@given(st.integers(0, 2000), st.integers(0, 2000), st.booleans())
def test_headers_are_found_in_content_at_any_byte_with_a_magic_word(before, after, old):
    block = v7() if old else header()
    before = padded(before) if old else before
    data = b"y" * before + block + b"z" * after
    assert [place for place, _ in find_headers(data)] == [before]


def test_an_old_header_is_found_only_in_step():
    assert list(find_headers(b"y" * 100 + v7() + b"z" * 1000)) == []


def test_a_right_sum_alone_is_not_enough_out_of_step():
    for change in [(257, b"other"), (156, b"~"), (100, b"mode"), (0, b"\0")]:
        block = bytearray(header())
        block[change[0] : change[0] + len(change[1])] = change[1]
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        found = parse_header(bytes(block))
        assert found is not None
        assert not is_plausible(bytes(block), found)
        assert list(find_headers(bytes(block))) == []


RECORDS = st.dictionaries(
    st.text("abcdef.", min_size=1, max_size=9), st.text("ab=\n é", max_size=120), max_size=5
)


@given(RECORDS)
def test_pax_records_are_those_that_tarfile_writes(records):
    body = tarfile.TarInfo._create_pax_generic_header(records, b"x", "utf-8")[BLOCK:]
    expected = {key.encode(): value.encode() for key, value in records.items()}
    assert pax_records(body) == expected


@given(st.binary(max_size=60))
def test_any_bytes_give_records_or_an_error(body):
    try:
        assert isinstance(pax_records(body), dict)
    except ValueError as error:
        assert "pax record" in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    "body", [b"0 a=b\n", b"5 a=b\n", b"7 a=b\n", b"6 a=b\nx", b" a=b\n", b"3 a\n"]
)
def test_a_record_of_another_length_is_an_error(body):
    with pytest.raises(ValueError, match="pax record"):
        pax_records(body)
