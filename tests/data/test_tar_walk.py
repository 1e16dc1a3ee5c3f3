"""One table of faults of tars, and what comes out of each: files, counts, the first place."""

import io
import shutil
import subprocess
import tarfile
import zlib

import google_crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.data.tar_damage import DamageCounter
from clipjax.data.tar_walk import TarWalk
from clipjax.data.tar_window import Window

BLOCK = 512
END = bytes(2 * BLOCK)


def entry(name, data=b"", tar_format=tarfile.USTAR_FORMAT, **fields):
    """The bytes of one member, with what lies before and behind it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    content = data + bytes(-len(data) % BLOCK)
    return info.tobuf(tar_format, "utf-8", "surrogateescape") + content


def changed(block, place, new, *, mend=False):
    out = bytearray(block)
    out[place : place + len(new)] = new
    if mend:
        out[148:156] = b" " * 8
        out[148:156] = b"%06o\0 " % sum(out[:BLOCK])
    return bytes(out)


def walk(data, *, checksums=True):
    """Returns ({name: content}, Damage) of the bytes of a tar."""
    damage = DamageCounter()
    read = lambda offset, length: data[offset : offset + length]  # noqa: E731
    found, by_name = list(TarWalk(read, len(data), damage, checksums=checksums)), {}
    for member in found:
        content = data[member.offset : member.offset + member.size]
        assert member.crc == (google_crc32c.value(content) if checksums else 0)
        assert member.header_crc == zlib.crc32(data[member.offset - BLOCK : member.offset])
        by_name[member.name] = content
    assert len(by_name) == len(found), "a name came out twice"
    return by_name, damage.result()


A, B, C = (entry(f"{name}.txt", name.encode() * 600) for name in "abc")
INNER = entry("inner.jpg", b"i" * 10) + entry("inner.txt", b"j" * 600) + END
LONG = "d/" * 70 + "x.txt"
PAX = entry("x" * 120 + ".txt", b"x", tarfile.PAX_FORMAT)
SMASHED = b"\xff" * BLOCK + B[BLOCK:]
LINK = entry("b.txt", type=tarfile.SYMTYPE, linkname="a.txt")

# name: (bytes, members that come out, counts)
FAULTS = {
    "sound": (A + B + C + END, "abc", {}),
    "empty": (END, "", {}),
    "an end mark of one block": (A + bytes(BLOCK), "a", {}),
    "no end mark": (A + B, "ab", {"no end mark": 1}),
    "cut in the last content": ((A + B)[:-600], "a", {"truncated": 1}),
    "cut in the last padding": ((A + B)[:-10], "ab", {"no end mark": 1}),
    "cut in a header": ((A + B)[: len(A) + 90], "a", {"truncated": 1, "no end mark": 1}),
    "cut in a pax header": (A + PAX[:700], "a", {"truncated": 1}),
    "cut behind a pax header": (A + PAX[:1024], "a", {"truncated": 1}),
    "a pax header before the end": (A + PAX[:1024] + END, "a", {"truncated": 1}),
    "smashed header": (A + SMASHED + C + END, "ac", {"header checksum": 1}),
    "first header smashed": (SMASHED + C + END, "c", {"header checksum": 1}),
    "last header smashed": (A + SMASHED + END, "a", {"header checksum": 1}),
    "wrong checksum": (A + changed(B, 148, b"777777") + C + END, "ac", {"header checksum": 1}),
    "two neighbours smashed": (A + SMASHED + SMASHED + C + END, "ac", {"header checksum": 1}),
    "two smashed": (A + SMASHED + C + SMASHED + END, "ac", {"header checksum": 2}),
    "zeroed header": (A + bytes(BLOCK) + B[BLOCK:] + C + END, "ac", {"zero blocks": 1}),
    "zero blocks amid": (A + END + B + C + END, "abc", {"zero blocks": 1}),
    "many zero blocks amid": (A + bytes(3 << 20) + B + END, "ab", {"zero blocks": 1}),
    "junk behind the end": (A + END + b"junk" * 500, "a", {"zero blocks": 1}),
    "a byte added": (A + b"!" + B + C + END, "abc", {"header checksum": 1}),
    "bytes lost": (A[:-100] + B + C + END, "ac", {"header checksum": 1}),
    "links": (A + LINK + C + END, "ac", {"link": 1}),
    "hard link with a size": (
        A + entry("b", type=tarfile.LNKTYPE, size=7000) + C + END, "ac", {"link": 1}),
    "device and pipe": (
        A + entry("d", type=tarfile.CHRTYPE) + entry("p", type=tarfile.FIFOTYPE) + C + END,
        "ac", {"device": 2}),
    "folder": (entry("f", type=tarfile.DIRTYPE) + A + END, "a", {"directory": 1}),
    "old folder": (entry("f/", type=tarfile.AREGTYPE) + A + END, "a", {"directory": 1}),
    "unknown type": (changed(A, 156, b"Z", mend=True) + B + END, "b", {"unknown type": 1}),
    "contiguous file": (changed(A, 156, b"7", mend=True) + B + END, "ab", {}),
    "old regular file": (changed(A, 156, b"\0", mend=True) + B + END, "ab", {}),
    "old GNU sparse": (
        changed(changed(A, 482, b"\1"), 156, b"S", mend=True)[:BLOCK]
        + changed(bytes(BLOCK), 504, b"\1") + bytes([7]) * 500 + bytes(12) + A[BLOCK:] + B + END,
        "b", {"sparse": 1}),
    "pax sparse": (
        entry("a.txt", b"x", tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.major": "1"}) + B + END,
        "b", {"sparse": 1}),
    "no name": (entry("", b"x") + B + END, "b", {"bad name": 1}),
    "negative size": (
        A + changed(B, 124, b"\xff" * 12, mend=True) + C + END, "ac", {"header checksum": 1}),
    "base-256 size": (
        A + changed(B, 124, b"\x80" + (600).to_bytes(11, "big"), mend=True) + C + END, "abc", {}),
    "huge size": (
        A + changed(B, 124, b"\x80" + (2**80).to_bytes(11, "big"), mend=True) + C + END,
        "a", {"truncated": 1}),
    "a tar as content": (A + entry("b.txt", INNER) + C + END, "abc", {}),
    "a tar as content behind a smashed name": (
        A + changed(entry("b.txt", INNER), 0, b"?") + C + END, "ac", {"header checksum": 1}),
    "a tar as last content behind a smashed name": (
        A + changed(entry("b.txt", INNER), 0, b"?") + END, "a", {"header checksum": 1}),
    "magic words as content": (A + entry("b.txt", b"ustar\0" * 9 + b"ustar  \0") + END, "ab", {}),
    "damaged pax record": (
        PAX.replace(b" path=", b"9path=") + C + END, "c", {"bad extension": 1, "bad name": 1}),
    "pax header smashed, its member has a cut name": (
        changed(PAX, 0, b"??") + C + END, "c", {"header checksum": 1, "bad name": 1}),
    "pax size beyond the end": (
        entry("b.txt", b"b", tarfile.PAX_FORMAT, pax_headers={"size": "99999999"}) + C + END,
        "c", {"bad extension": 1}),
    "huge pax header": (
        entry("p", bytes(2 << 20), type=b"x") + A + B + END,
        "b", {"bad extension": 1, "bad name": 1}),
}  # fmt: skip


@pytest.mark.parametrize("checksums", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_what_comes_out_of_a_faulty_tar(fault, checksums):
    data, names, counts = FAULTS[fault]
    found, damage = walk(data, checksums=checksums)
    assert list(found) == [f"{name}.txt" for name in names]
    assert damage.counts == counts
    for name in names:
        if name != "b" or "content" not in fault:
            assert set(found[f"{name}.txt"]) == {ord(name)}
    assert bool(damage.first) == bool(damage)


def test_passed_over_bytes_are_counted():
    _, damage = walk(A + SMASHED + C + END)
    assert damage.lost_bytes == len(B)
    assert damage.first == f"byte {len(A):,}"
    _, damage = walk((A + B)[:-600])
    assert damage.lost_bytes == len(B) - 600
    assert damage.first == "b.txt"


@pytest.mark.parametrize(
    "name", ["../../x.txt", "/etc/passwd.txt", "caf\udce9.txt", "..", "é" * 90]
)
@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_labels_and_come_out_as_they_are(name, tar_format):
    found, damage = walk(entry(name, b"x", tar_format) + A + END)
    assert list(found) == [name, "a.txt"]
    assert not damage


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_long_links(tar_format):
    link = entry("l", tar_format=tar_format, type=tarfile.SYMTYPE, linkname=LONG)
    found, damage = walk(entry(LONG, b"x", tar_format) + link + A + END)
    assert list(found) == [LONG, "a.txt"]
    assert damage.counts == {"link": 1}


def test_a_global_header_speaks_of_all_that_follow():
    info = tarfile.TarInfo.create_pax_global_header({"comment": "é"})
    assert walk(info + A + B + END)[1].counts == {}
    assert walk(info + END)[1].counts == {}
    sized = tarfile.TarInfo.create_pax_global_header({"size": "5"})
    assert [len(content) for content in walk(sized + entry("a", b"12345") + END)[0].values()] == [5]


def test_a_name_before_a_header_must_agree_with_the_one_in_it():
    """A lost range can put one member's name before another's header: nobody else would notice."""
    whole = [entry(f"é{i}.txt", str(i).encode(), tarfile.PAX_FORMAT) for i in range(4)]
    spliced = whole[1][: 2 * BLOCK] + whole[2][2 * BLOCK :]
    found, damage = walk(whole[0] + spliced + whole[3] + END)
    assert found == {"é0.txt": b"0", "é3.txt": b"3"}
    assert damage.counts == {"bad name": 1}


def test_a_doubtful_name_before_the_first_agreeing_one_asks_for_a_second_walk():
    whole = [entry(f"é{i}.txt", str(i).encode(), tarfile.PAX_FORMAT) for i in range(3)]
    data = whole[0][: 2 * BLOCK] + whole[1][2 * BLOCK :] + whole[2] + END
    read = lambda offset, length: data[offset : offset + length]  # noqa: E731
    first = TarWalk(read, len(data), DamageCounter(), checksums=False)
    assert [member.name for member in first] == ["é0.txt", "é2.txt"]
    assert first.is_doubtful
    second = TarWalk(read, len(data), DamageCounter(), checksums=False, repeats=first.repeats)
    assert [member.name for member in second] == ["é2.txt"]
    assert not second.is_doubtful


def test_a_writer_that_does_not_repeat_names_is_believed():
    other = [
        tarfile.TarInfo._create_pax_generic_header({"path": f"é{i}.txt"}, b"x", "utf-8")
        + entry(f"made-up-{i}", b"x")
        for i in range(3)
    ]
    found, damage = walk(b"".join(other) + END)
    assert list(found) == ["é0.txt", "é1.txt", "é2.txt"]
    assert not damage


def test_what_follows_a_gap_is_marked():
    damage = DamageCounter()
    data = A + SMASHED + C + entry("d.txt") + END + entry("e.txt") + END
    walked = TarWalk(lambda o, n: data[o : o + n], len(data), damage, checksums=False)
    assert [member.after_gap for member in walked] == [False, True, False, True]


def test_a_lost_name_is_a_gap():
    """What it named may have been replaced by any number of others."""
    whole = [entry(f"é{i}.txt", str(i).encode(), tarfile.PAX_FORMAT) for i in range(4)]
    data = whole[0] + whole[1][: 2 * BLOCK] + whole[2][2 * BLOCK :] + whole[3] + END
    walked = TarWalk(lambda o, n: data[o : o + n], len(data), DamageCounter(), checksums=False)
    assert [(member.name, member.after_gap) for member in walked] == [
        ("é0.txt", False),
        ("é3.txt", True),
    ]


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar command")
@pytest.mark.parametrize("tar_format", ["v7", "ustar", "oldgnu", "gnu", "pax"])
def test_archives_of_the_tar_command(tmp_path, tar_format):
    """Of every format it writes, with a link, a sparse file and a deep folder."""
    folder = tmp_path / "in" / ("deep" * 10)
    folder.mkdir(parents=True)
    sizes = {"a.jpg": 0, "a.txt": 511, "b.jpg": 512, "b.txt": 70_000}
    for name, size in sizes.items():
        (folder / name).write_bytes(name.encode() * (size // 5 + 1))
    (folder / "link.txt").symlink_to("a.txt")
    with open(folder / "hole.jpg", "wb") as file:
        file.truncate(1 << 20)
        file.write(b"x")
    sparse = ["--sparse"] if tar_format in ("gnu", "oldgnu", "pax") else []
    out = tmp_path / "x.tar"
    command = ["tar", "-cf", out, f"--format={tar_format}", *sparse, "--sort=name", "-C", tmp_path]
    subprocess.run([*command, "in"], check=True)
    found, damage = walk(out.read_bytes())
    expected = {f"in/{folder.name}/{name}": (folder / name).read_bytes() for name in sizes}
    if not sparse:
        expected[f"in/{folder.name}/hole.jpg"] = (folder / "hole.jpg").read_bytes()
    assert found == expected
    assert damage.counts == {"directory": 2, "link": 1} | ({"sparse": 1} if sparse else {})


@settings(deadline=None, max_examples=50)
@given(
    st.binary(min_size=1, max_size=9000),
    st.sampled_from([0, 700, 4 << 20]),
    st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 4000)), max_size=20),
)
def test_a_window_gives_the_bytes_of_the_file(data, stream, spans):
    window = Window(lambda offset, length: data[offset : offset + length], len(data), stream)
    for offset, length in spans:
        offset = min(offset, len(data))
        assert window.at(offset, length) == data[offset : offset + length]
        length = min(length, len(data) - offset)
        assert b"".join(window.pieces(offset, length)) == data[offset : offset + length]


def test_only_headers_are_read_where_contents_are_large():
    parts = [entry(f"{i}.jpg", bytes(1 << 18)) for i in range(20)]
    data, lengths = b"".join(parts) + END, []

    def read(offset, length):
        lengths.append(length)
        return data[offset : offset + length]

    assert len(list(TarWalk(read, len(data), DamageCounter(), checksums=False))) == 20
    assert sum(lengths) < 100_000


def test_small_members_are_read_many_at_a_time():
    data, reads = b"".join(entry(f"{i}.txt", b"x" * 50) for i in range(3000)) + END, []

    def read(offset, length):
        reads.append(length)
        return data[offset : offset + length]

    assert len(list(TarWalk(read, len(data), DamageCounter(), checksums=False))) == 3000
    assert len(reads) < 40


def test_a_file_that_shrinks_is_an_error():
    with pytest.raises(EOFError, match="the file ended at byte 100"):
        list(TarWalk(lambda o, n: (A + END)[o : o + n][:100], len(A + END), DamageCounter(),
                     checksums=False))  # fmt: skip


def test_a_header_region_full_of_damage_takes_no_long_time():
    """2,000 headers, every other one smashed, and content that looks like magic words."""
    import time

    good = entry("a.txt", b"ustar\0" * 100)
    data = (good + changed(good, 0, b"?")) * 1000 + END
    damage = DamageCounter()
    start = time.process_time()
    walked = TarWalk(lambda o, n: data[o : o + n], len(data), damage, checksums=True)
    assert sum(1 for _ in walked) == 1000
    assert damage.result().counts == {"header checksum": 1000}
    assert time.process_time() - start < 10


def test_walking_needs_no_memory_for_contents():
    buffer = io.BytesIO(entry("a.jpg", bytes(32 << 20)) + END)

    def read(offset, length):
        assert length <= 4 << 20
        buffer.seek(offset)
        return buffer.read(length)

    size = len(buffer.getvalue())
    (member,) = TarWalk(read, size, DamageCounter(), checksums=True)
    assert member.crc == google_crc32c.value(bytes(32 << 20))
