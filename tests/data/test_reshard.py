import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data.decode import BadSampleError, decode_image
from clipjax.data.image_header import read_header
from clipjax.data.reshard import (
    Drops,
    Reencoding,
    captioned,
    reencode,
    resharded,
    resized_shape,
    write_resharded,
)
from clipjax.data.sources.tar_shards import TarShards


def picture(i, size=(60, 40), kind="jpeg"):
    rng = np.random.default_rng(i)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def source(tmp_path, make_tar):
    paths = []
    for shard in range(2):
        samples = {}
        for i in range(5):
            number = 5 * shard + i
            kind, suffix = (("jpeg", "jpg"), ("png", "png"), ("webp", "webp"))[number % 3]
            fields = {"key": "old", "number": number, "caption": f"é {number}"}
            samples[f"k{number}"] = {
                suffix: picture(number, (60 + number, 40), kind),
                "txt": f"é {number}".encode(),
                "json": json.dumps(fields).encode(),
            }
        paths.append(str(make_tar(tmp_path / f"in{shard}.tar", samples)))
    shards = TarShards(paths, needs=("txt", "json"))
    yield shards
    shards.close()


def write(source, out, how=None, **options):
    how = how or Reencoding()
    options = {"made_by": ("reshard", {"a": 1}), "threads": 3, **options}
    return write_resharded(source, out, lambda sample: resharded(sample, how), **options)


def read(folder):
    paths = sorted(str(path) for path in folder.glob("*.tar"))
    source = TarShards(paths, needs=("txt", "json"))
    samples = [source[i] for i in range(len(source))]
    source.close()
    return samples


def test_without_resizing_the_samples_are_the_same(source, tmp_path):
    figures = write(source, tmp_path / "out", shard_size=4)
    assert (figures["samples"], figures["shards"], figures["dropped"]) == (10, 3, {})
    for i, sample in enumerate(read(tmp_path / "out")):
        assert sample["image"] == source[i]["image"]
        assert sample["txt"] == source[i]["txt"]
        fields = json.loads(sample["json"])
        assert fields.pop("key") == f"{i // 4:05d}{i % 4:04d}"
        assert fields == {"number": i, "caption": f"é {i}"}
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if "index" not in path.name)
    assert names == ["00000.tar", "00000_stats.json", "00001.tar", "00001_stats.json",
                     "00002.tar", "00002_stats.json", "dataset.json"]  # fmt: skip


def test_webdataset_itself_reads_the_result(source, tmp_path):
    import contextlib

    from webdataset.tariterators import group_by_keys, tar_file_expander

    write(source, tmp_path / "out", Reencoding(side=16, mode="square"), shard_size=4)
    with contextlib.ExitStack() as stack:  # webdataset's own opener leaves the last file open
        shards = [
            {"url": str(path), "stream": stack.enter_context(path.open("rb"))}
            for path in sorted((tmp_path / "out").glob("*.tar"))
        ]
        found = list(group_by_keys(tar_file_expander(shards)))
    assert [sample["txt"].decode() for sample in found] == [f"é {i}" for i in range(10)]
    assert {Image.open(io.BytesIO(sample["jpg"])).size for sample in found} == {(16, 16)}
    assert [sample["__key__"] for sample in found][4:6] == ["000010000", "000010001"]


def test_sizes_are_changed_and_the_old_ones_kept(source, tmp_path):
    write(source, tmp_path / "out", Reencoding(side=20, mode="shortest"))
    for i, sample in enumerate(read(tmp_path / "out")):
        header = read_header(sample["image"])
        assert (header.suffix, header.height) == ("jpg", 20)
        assert header.width == round((60 + i) / 2)
        fields = json.loads(sample["json"])
        assert (fields["width"], fields["height"]) == (header.width, 20)
        assert (fields["original_width"], fields["original_height"]) == (60 + i, 40)


def test_resharding_twice_keeps_the_first_size(source):
    once = dict(resharded(source[0], Reencoding(side=20, mode="shortest")))
    again = {"image": once["jpg"], "json": json.dumps(once["json"]).encode()}
    twice = resharded(again, Reencoding(side=10, mode="shortest"))["json"]
    assert (twice["original_width"], twice["width"], twice["height"]) == (60, 15, 10)


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600),
    st.sampled_from(["shortest", "longest", "square", "none"]),
)  # fmt: skip
def test_shapes_never_grow_and_meet_the_side(width, height, side, mode):
    w, h = resized_shape(width, height, side, mode)
    assert 1 <= w <= width
    assert 1 <= h <= height
    if mode == "shortest":
        assert min(w, h) == min(side, width, height)
    if mode == "longest":
        assert max(w, h) == min(side, max(width, height))
    if mode == "square":
        assert w == h == min(side, width, height)
    if mode in ("shortest", "longest"):
        assert abs(w * height - h * width) <= max(width, height)


def test_what_needs_no_change_keeps_its_bytes():
    for kind in ("jpeg", "png", "webp"):
        data = picture(0, (60, 40), kind)
        for mode in ("shortest", "longest", "none"):
            assert reencode(data, Reencoding(side=60, mode=mode)).data == data
    jpeg = reencode(picture(0, kind="png"), Reencoding(always_jpeg=True))
    assert (jpeg.suffix, jpeg.size) == ("jpg", (60, 40))
    data = picture(0, kind="jpeg")
    assert reencode(data, Reencoding(always_jpeg=True)).data == data


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    buffer = io.BytesIO()
    Image.fromarray(stripes).save(buffer, "png")
    small = reencode(buffer.getvalue(), Reencoding(side=64, mode="shortest", quality=100))
    assert np.abs(decode_image(small.data, 1 << 20).astype(int) - 127).max() <= 3


def test_the_square_is_the_centre():
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, 30:60] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    found = reencode(buffer.getvalue(), Reencoding(side=10, mode="square", quality=95))
    assert decode_image(found.data, 1 << 20).min() > 245
    tall = reencode(picture(0, (30, 31), "png"), Reencoding(side=100, mode="square"))
    assert tall.size == (30, 30)


def test_quality_is_that_of_the_jpeg():
    data = picture(0, (600, 400), "png")
    sizes = [
        len(reencode(data, Reencoding(side=300, mode="shortest", quality=q)).data)
        for q in (20, 60, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


def test_transparency_becomes_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(buffer, "png")
    found = reencode(buffer.getvalue(), Reencoding(side=20, mode="longest"))
    assert decode_image(found.data, 1 << 20).min() >= 254


def test_bad_samples_are_dropped_and_counted(tmp_path, make_tar):
    good = {"txt": b"x", "json": b"{}"}
    samples = {
        "a": {"jpg": b"no image", **good},
        "b": {"jpg": picture(1), "txt": b"x", "json": b"[1]"},
        "c": {"jpg": picture(1, (300, 300)), **good},
        "d": {"jpg": picture(2), **good},
        "e": {"jpg": picture(1)[:300], **good},
        "f": {"jpg": picture(1), "txt": b"x", "json": b"{broken"},
    }
    path = str(make_tar(tmp_path / "in.tar", samples))
    source = TarShards([path], needs=("txt", "json"))
    how = Reencoding(side=20, mode="shortest", max_pixels=10_000)
    figures = write(source, tmp_path / "out", how)
    assert figures["samples"] == 1
    assert figures["dropped"] == {"damaged": 2, "damaged json": 2, "too large": 1}
    assert figures["example_dropped"].startswith(path)
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        assert [name.split(".")[0] for name in tar.getnames()] == ["000000000"] * 3
    source.close()


def test_no_usable_sample_is_an_error_and_leaves_no_shard(tmp_path, make_tar):
    path = str(make_tar(tmp_path / "in.tar", {"a": {"jpg": b"x", "txt": b"", "json": b"{}"}}))
    source = TarShards([path], needs=("txt", "json"))
    with pytest.raises(UserError, match=r"no sample of 1 can be used \(dropped 1 damaged\)"):
        write(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.tar"))
    source.close()


def test_shuffling_is_a_permutation_of_the_seed(source, tmp_path):
    orders = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", None)):
        write(source, tmp_path / name, shuffle_seed=seed)
        orders.append([json.loads(sample["json"])["number"] for sample in read(tmp_path / name)])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != orders[3] == list(range(10))
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(10))


def test_the_bytes_do_not_depend_on_the_threads(source, tmp_path):
    how = Reencoding(side=20, mode="longest")
    for threads in (1, 7):
        write(source, tmp_path / str(threads), how, threads=threads)
    one, seven = ((tmp_path / name / "00000.tar").read_bytes() for name in ("1", "7"))
    assert one == seven


def test_a_complete_folder_is_left_as_it_is(source, tmp_path, capsys):
    out = tmp_path / "out"
    first = write(source, out)
    before = (out / "00000.tar").stat().st_mtime_ns
    assert write(source, out) == first
    assert "already complete" in capsys.readouterr().err
    assert (out / "00000.tar").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="Choose another folder"):
        write(source, out, made_by=("reshard", {"a": 2}))


def test_shards_of_others_are_not_touched(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00000.tar").write_bytes(b"mine")
    with pytest.raises(UserError, match="did not write it"):
        write(source, tmp_path / "out")
    assert (tmp_path / "out" / "00000.tar").read_bytes() == b"mine"


def test_an_error_in_the_middle_leaves_no_shard_and_can_be_run_again(source, tmp_path):
    def fails(sample):
        if json.loads(sample["json"])["number"] == 7:
            raise RuntimeError("the disk is gone")
        return resharded(sample, Reencoding())

    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="disk"):
        write_resharded(source, out, fails, made_by=("reshard", {"a": 1}), shard_size=2, threads=2)
    assert [path.name for path in out.iterdir()] == ["dataset.json.partial"]
    assert write(source, out)["samples"] == 10


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_looks_complete(source, tmp_path):
    out = tmp_path / "out"
    code = (
        "import sys, time\n"
        "from clipjax.data.reshard import *\n"
        "from clipjax.data.sources.tar_shards import TarShards\n"
        "def slow(sample):\n"
        "    time.sleep(0.2)\n"
        "    return resharded(sample, Reencoding())\n"
        "source = TarShards(sys.argv[2:], needs=('txt', 'json'))\n"
        "write_resharded(source, sys.argv[1], slow, made_by=('reshard', {'a': 1}), shard_size=2,"
        " threads=1)\n"
    )
    paths = [str(tmp_path / f"in{shard}.tar") for shard in range(2)]
    process = subprocess.Popen([sys.executable, "-c", code, str(out), *paths])
    try:
        deadline = time.monotonic() + 60
        while not list(out.glob("00001.tar*")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert list(out.glob("*.partial"))
    assert not list(out.glob("*.tar"))
    assert not (out / "dataset.json").exists()
    assert write(source, out, shard_size=2)["samples"] == 10
    assert not list(out.glob("*.partial"))


def test_captioned_describes_the_sample():
    sample = {
        "image": picture(0, kind="png"),
        "json": json.dumps({"alts": ["one", "two"], "width": 9, "lang": "en"}).encode(),
        "cls": b"3",
    }
    found = captioned(sample, "json.alts", ("json", "cls"), Reencoding())
    assert sorted(found) == ["cls", "json", "png", "txt"]
    assert (found["txt"], found["cls"]) == (b"one", b"3")
    assert found["json"] == {
        "alts": ["one", "two"],
        "lang": "en",
        "caption": "one",
        "key": "",
        "status": "success",
        "width": 60,
        "height": 40,
    }
    bare = captioned({"image": sample["image"], "txt": b"hi"}, "txt", (), Reencoding())
    assert (bare["txt"], len(bare["json"])) == (b"hi", 5)
    with pytest.raises(BadSampleError, match="no caption"):
        captioned({"image": sample["image"], "txt": b" "}, "txt", (), Reencoding())


def test_drops_are_counted_from_many_threads():
    from concurrent.futures import ThreadPoolExecutor

    drops = Drops()
    assert drops.said() == ""
    error = BadSampleError("damaged", "x")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: (drops.add(f"at {i}", error), drops.said()), range(4000)))
    assert drops.by_reason == {"damaged": 4000}
    assert drops.said() == "dropped 4,000 damaged"
    assert drops.example.endswith("damaged: x")
