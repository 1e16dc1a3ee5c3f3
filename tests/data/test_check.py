import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipjax.data import check
from clipjax.data.check import CheckOptions, check_shards, key_hashes
from clipjax.data.tar_index import open_index


def picture(seed=0, side=12, kind="PNG"):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def pairs(prefix, count):
    return [
        member
        for i in range(count)
        for member in [(f"{prefix}{i:03d}.png", picture(i)), (f"{prefix}{i:03d}.txt", b"a text")]
    ]


@pytest.fixture
def clean(tmp_path):
    return [write(tmp_path / f"{s}.tar", pairs(f"{s}-", 4 + s)) for s in range(3)]


def test_clean_shards_have_no_problems(clean):
    assert check_shards(clean) == {
        "shards": 3,
        "samples": 15,
        "complete": 15,
        "checksummed_shards": 0,
        "problems": {},
        "examples": {},
        "rows": [],
    }


BAD = [
    ("no-text.png", picture()),
    ("no-image.txt", b"a text"),
    ("README", b"?"),
    ("html.jpg", b"<html>"),
    ("html.txt", b"a text"),
    ("cut.png", picture()[:200]),
    ("cut.txt", b"a text"),
    ("large.png", picture(0, 90)),
    ("large.txt", b"a text"),
    ("blank.png", picture()),
    ("blank.txt", b" \n"),
    ("latin.png", picture()),
    ("latin.txt", b"caf\xe9"),
]
PROBLEMS = {
    "image without caption": ["no-text"],
    "caption without image": ["no-image"],
    "no image and no caption": ["README"],
    "image: not an image": ["html"],
    "image: damaged": ["cut"],
    "image: too large": ["large"],
    "empty caption": ["blank"],
    "unreadable caption": ["latin"],
}


@pytest.mark.parametrize("threads", [1, 5])
def test_every_kind_of_bad_sample_is_counted_with_its_key(clean, tmp_path, threads):
    bad = write(tmp_path / "bad.tar", [*pairs("ok", 3), *BAD])
    options = CheckOptions(max_image_pixels=1000, threads=threads)
    report = check_shards([clean[0], bad, clean[1]], options)
    assert report["problems"] == {reason: len(keys) for reason, keys in PROBLEMS.items()}
    assert report["examples"] == {
        reason: [f"{bad}: {key}" for key in keys] for reason, keys in PROBLEMS.items()
    }
    assert (report["shards"], report["samples"], report["complete"]) == (3, 20, 17)
    (row,) = report["rows"]
    assert row["shard"] == bad
    assert row["problems"] == report["problems"]
    assert (row["samples"], row["complete"], row["damage"], row["error"]) == (11, 8, "", "")
    json.dumps(report, allow_nan=False)


def test_without_decoding_images_are_not_read(clean, tmp_path):
    bad = write(tmp_path / "bad.tar", BAD)
    report = check_shards([bad], CheckOptions(decode=False))
    assert not [reason for reason in report["problems"] if reason.startswith("image: ")]
    assert report["problems"]["empty caption"] == 1


def test_captions_in_json_are_read_there(tmp_path):
    texts = {"a": {"caption": "x"}, "b": {"caption": ""}, "c": {}, "d": {"caption": ["x", "y"]}}
    members = [
        member
        for key, fields in texts.items()
        for member in [(f"{key}.png", picture()), (f"{key}.json", json.dumps(fields).encode())]
    ]
    path = write(tmp_path / "x.tar", [*members, ("e.png", picture()), ("e.txt", b"x")])
    report = check_shards([path], CheckOptions(caption="json.caption"))
    assert report["problems"] == {
        "empty caption": 1,
        "unreadable caption": 1,
        "image without caption": 1,
    }
    assert report["examples"]["empty caption"] == [f"{path}: b"]


def test_examples_are_the_first_five_in_the_order_of_the_shards(tmp_path):
    paths = [
        write(tmp_path / f"{s}.tar", [(f"{s}{i}.png", picture()) for i in range(3)])
        for s in range(4)
    ]
    report = check_shards(paths, CheckOptions(threads=4))
    assert report["problems"] == {"image without caption": 12}
    assert report["examples"]["image without caption"] == [
        f"{paths[s]}: {s}{i}" for s, i in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    ]


def test_damaged_and_unreadable_shards_do_not_stop_the_others(clean, tmp_path):
    with tarfile.open(clean[1]) as tar:
        end = tar.getmembers()[6].offset_data + 9
    cut = tmp_path / "cut.tar"
    cut.write_bytes(Path(clean[1]).read_bytes()[:end])
    (tmp_path / "page.tar").write_bytes(b"<html>")
    page, gone = str(tmp_path / "page.tar"), str(tmp_path / "gone.tar")
    report = check_shards([page, str(cut), gone, clean[0]])
    assert report["problems"]["unreadable shard"] == 2
    assert report["problems"]["tar: truncated"] == 1
    assert report["examples"]["tar: truncated"] == [f"{cut}: 1-003.png"]
    rows = {row["shard"]: row for row in report["rows"]}
    assert "web page" in rows[page]["error"]
    assert "No such file" in rows[gone]["error"]
    assert rows[str(cut)]["damage"].startswith("truncated 1; ")
    assert rows[str(cut)]["complete"] == 3
    assert clean[0] not in rows


def test_keys_in_several_shards_are_found(clean, tmp_path):
    twice = write(tmp_path / "again.tar", [*pairs("new", 1), *pairs("0-", 4), *pairs("1-", 4)])
    report = check_shards([*clean, twice])
    assert report["problems"] == {"key in several shards": 8}
    examples = report["examples"]["key in several shards"]
    assert len(examples) == 5
    keys = {f"{clean[s]}: {s}-{i:03d} and {twice}" for s in range(2) for i in range(4)}
    assert set(examples) < keys


def test_a_key_in_three_shards_counts_once(tmp_path):
    paths = [write(tmp_path / f"{s}.tar", pairs("k", 1)) for s in range(3)]
    report = check_shards(paths)
    assert report["problems"] == {"key in several shards": 1}


def test_duplicates_within_a_shard_are_counted(tmp_path):
    path = write(tmp_path / "x.tar", [*pairs("a", 2), *pairs("a", 1)])
    report = check_shards([path])
    assert report["problems"] == {"tar: duplicate member": 2}


def test_contents_that_differ_from_their_checksums_are_found(clean):
    """One flipped bit in a content, with the file's time put back: only the checksum can tell."""
    index = open_index(clean[0], checksums=True)
    stat = os.stat(clean[0])
    offset = int(index.offsets[2, index.suffixes.index("txt")])
    with open(clean[0], "r+b") as file:
        file.seek(offset)
        file.write(b"A")
    os.utime(clean[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for decode in (False, True):
        report = check_shards(clean, CheckOptions(decode=decode))
        assert report["checksummed_shards"] == 1
        assert report["problems"] == {"checksum mismatch": 1}
        assert report["examples"]["checksum mismatch"] == [f"{clean[0]}: 0-002.txt"]


def test_a_header_that_changed_since_the_index_is_found(clean):
    open_index(clean[0])
    stat = os.stat(clean[0])
    with open(clean[0], "r+b") as file:
        file.write(b"X")
    os.utime(clean[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert check_shards(clean)["problems"] == {"changed since it was indexed": 1}


def test_keys_cannot_steer_the_terminal(tmp_path):
    path = write(tmp_path / "x.tar", [("a\x1b[2J\n.png", picture())])
    report = check_shards([path])
    assert report["examples"]["image without caption"] == [f"{path}: a\\x1b[2J\\n"]


def test_remote_shards_are_read_through_the_storage(clean, tmp_path):
    class Bucket:
        def stat(self, url):
            return os.stat(url.removeprefix("mem://")).st_size, "1"

        def read(self, url, offset, length):
            with open(url.removeprefix("mem://"), "rb") as file:
                file.seek(offset)
                return file.read(length)

    urls = [f"mem://{path}" for path in clean]
    report = check_shards(urls, CheckOptions(index_dir=str(tmp_path / "i")), storage=Bucket())
    assert (report["complete"], report["checksummed_shards"]) == (15, 3)
    assert report["problems"] == {}


def test_an_error_in_one_shard_ends_the_others(clean, monkeypatch):
    """A mistake of ours must not wait for the last of 10,000 shards."""

    def broken(*_):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(check, "_check_samples", broken)
    with pytest.raises(ZeroDivisionError):
        check_shards(clean)


def test_progress_says_shards_and_samples(clean, capsys):
    check_shards(clean)
    assert "checking: 3/3 shards" in capsys.readouterr().err


def test_hashes_differ_and_are_the_same_everywhere():
    keys = [f"{i}" for i in range(10_000)] + ["caf\udce9"]
    hashes = key_hashes(keys)
    assert len(np.unique(hashes)) == len(keys)
    assert hashes.dtype == np.uint64
    # blake2b-64 of b"0", first byte last, from the reference tool b2sum -l 64
    assert int(hashes[0]).to_bytes(8, "little").hex() == B2SUM_OF_ZERO
    assert len(key_hashes([])) == 0


B2SUM_OF_ZERO = "842b7d9d43cddf75"
