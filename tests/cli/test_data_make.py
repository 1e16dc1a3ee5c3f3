import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipjax.cli import data_make
from clipjax.cli.parser import Parser
from clipjax.config.errors import UsageError, UserError
from clipjax.data.sources.tar_shards import TarShards


def run(*argv):
    parser = Parser(prog="clipjax data make")
    data_make.configure(parser)
    return data_make.run(parser.parse_args([str(arg) for arg in argv]))


def encoded(i, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), 9 * i, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six images, one of them damaged and one missing, with a list and as class folders."""
    lines = ["filepath,title,lang"]
    for i in range(6):
        place = tmp_path / "images" / ("cat", "wild_dog")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        content = b"no image" if i == 3 else encoded(i, ("jpeg", "png")[i % 2])
        (place / f"{i}.img.jpg").write_bytes(content)
        lines.append(f"images/{place.name}/{i}.img.jpg,title {i},en")
    lines.append("images/cat/none.jpg,nothing,en")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    return tmp_path


def members(path):
    with tarfile.open(path, "r:") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def test_a_list_becomes_shards(folder, capsys):
    out = folder / "out"
    figures = run("--from", folder / "list.csv", "--out", out, "--shard-size", 3, "--threads", 2)
    assert (figures["samples"], figures["shards"]) == (5, 2)
    assert figures["dropped"] == {"damaged": 1, "missing file": 1}
    assert (
        "5 samples in 2 shards; dropped 1 damaged, 1 missing file, e.g. " in capsys.readouterr().out
    )
    first = members(out / "00000.tar")
    assert list(first) == [
        f"00000000{i}.{suffix}"
        for i, image in enumerate(("jpg", "png", "jpg"))
        for suffix in sorted(("json", "txt", image))
    ]
    assert first["000000001.png"] == encoded(1, "png")
    assert first["000000001.txt"] == b"title 1"
    fields = json.loads(first["000000001.json"])
    assert (fields["lang"], fields["caption"], fields["width"]) == ("en", "title 1", 8)
    source = TarShards([str(out / f"0000{i}.tar") for i in range(2)], needs=("txt", "json"))
    assert len(source) == 5
    source.close()


def test_class_folders_become_shards_with_classes(folder):
    run("--from", "images", "--root", folder, "--keep", "cls", "--out", folder / "out")
    found = members(folder / "out" / "00000.tar")
    pairs = {(found[n[:-3] + "txt"], found[n]) for n in found if n.endswith(".cls")}
    assert pairs == {(b"cat", b"0"), (b"wild dog", b"1")}


def test_captions_may_come_from_another_column(folder):
    argv = ("--from", folder / "list.csv", "--caption", "json.lang", "--keep", "")
    run(*argv, "--out", folder / "out", "--limit", 2)
    found = members(folder / "out" / "00000.tar")
    assert found["000000001.txt"] == b"en"
    assert "lang" not in json.loads(found["000000001.json"])
    assert len(found) == 6


def test_jpegs_are_made_of_others(folder):
    run("--from", folder / "list.csv", "--out", folder / "out", "--format", "jpg", "--quality", 90)
    found = members(folder / "out" / "00000.tar")
    assert not [name for name in found if name.endswith(".png")]
    assert found["000000000.jpg"] == encoded(0, "jpeg")
    assert Image.open(io.BytesIO(found["000000001.jpg"])).format == "JPEG"


def test_running_it_again_makes_nothing(folder, capsys):
    argv = ("--from", folder / "list.csv", "--out", folder / "out")
    assert run(*argv) == run(*argv)
    assert "already complete" in capsys.readouterr().err
    with pytest.raises(UserError, match="Choose another folder"):
        run(*argv, "--limit", 2)
    (folder / "list.csv").write_text((folder / "list.csv").read_text().replace("title 1", "new"))
    with pytest.raises(UserError, match="Choose another folder"):
        run(*argv)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--shard-size", "0"), "--shard-size 0: wanted 1 to 10,000"),
        (("--shard-size", "10001"), "--shard-size 10001"),
        (("--threads", "0"), "--threads 0"),
        (("--quality", "101"), "--quality 101"),
        (("--limit", "0"), "--limit 0"),
        (("--max-pixels", "0"), "--max-pixels 0"),
        (("--keep", "npy"), "--keep npy: no member 'npy'. There are: json, cls"),
        (("--format", "gif"), "no --format 'gif'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(folder, argv, message):
    with pytest.raises(UsageError, match=message):
        run("--from", folder / "list.csv", "--out", folder / "out", *argv)
    assert not (folder / "out").exists()


def test_a_source_that_is_not_there(folder):
    with pytest.raises(UserError, match="No such file"):
        run("--from", "none.csv", "--root", folder, "--out", folder / "out")
    with pytest.raises(UserError, match="no column of captions"):
        run("--from", folder / "list.csv", "--caption-column", "nme", "--out", folder / "out")
    assert not (folder / "out").exists()
