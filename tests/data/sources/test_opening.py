import json

import pytest

from clipjax.config.errors import UserError
from clipjax.data.sources.folder import ImageFolder
from clipjax.data.sources.lists import ListedFiles
from clipjax.data.sources.opening import kind_of, open_source
from clipjax.data.sources.source import Source
from clipjax.data.sources.tar_shards import TarShards


@pytest.fixture
def root(tmp_path, make_tar):
    (tmp_path / "images" / "dog").mkdir(parents=True)
    (tmp_path / "images" / "dog" / "a.jpg").write_bytes(b"dog")
    (tmp_path / "list.csv").write_text("where,what\nimages/dog/a.jpg,a dog\n")
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": "images/dog/a.jpg", "text": "a dog"}))
    (tmp_path / "shards [1]").mkdir()
    for number in range(2):
        make_tar(tmp_path / "shards [1]" / f"{number}.tar", {"0": {"jpg": b"tar", "txt": b"a tar"}})
    return str(tmp_path)


@pytest.mark.parametrize(
    ("address", "kind", "cls", "first"),
    [
        ("list.jsonl", "list", ListedFiles, {"image": b"dog", "txt": b"a dog"}),
        ("images", "folder", ImageFolder, {"image": b"dog", "txt": b"dog"}),
        ("shards [1]", "shards", TarShards, {"image": b"tar", "txt": b"a tar"}),
        ("shard*/0.tar", "shards", TarShards, {"image": b"tar", "txt": b"a tar"}),
        ("shard*/{0..1}.tar", "shards", TarShards, {"image": b"tar", "txt": b"a tar"}),
    ],
)
def test_the_address_chooses_the_source(root, address, kind, cls, first):
    assert kind_of(address, root) == kind
    if " " in address and kind == "shards":
        address = address.replace(" ", "?") if "*" in address else address
    source = open_source(address, root, ("txt",))
    assert type(source) is cls
    assert isinstance(source, Source)
    assert dict(source[0]) == first
    source.close()


def test_absolute_addresses_need_no_root(root):
    source = open_source(f"{root}/list.jsonl", "", ("txt",))
    assert source[0]["txt"] == b"a dog"
    source.close()


def test_columns_reach_the_list(root):
    source = open_source("list.csv", root, ("txt",), image_column="where", caption_column="what")
    assert source[0]["txt"] == b"a dog"


def test_what_is_nothing_is_told(root):
    with pytest.raises(UserError, match="No such file"):
        open_source("none", root, ("txt",))
    for address in ("s3://bucket/list.csv", "pipe:cat list.csv"):
        assert kind_of(address, root) == "shards"
    with pytest.raises(UserError, match="prepared"):
        open_source("tfds:no_such_set", root, ("txt",))


def test_indexes_lie_where_they_should(root, tmp_path):
    open_source("shards [1]", root, ("txt",), index_dir=str(tmp_path / "index")).close()
    assert len(list((tmp_path / "index").iterdir())) == 2
