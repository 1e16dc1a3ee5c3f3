import builtins

import pytest

from clipjax.config import UserError
from clipjax.config.data import RemoteConfig
from clipjax.data.storage import StorageError, open_storage
from clipjax.data.storage.local import LocalStorage
from clipjax.data.storage.opening import cache_directory


def test_paths_need_no_package_for_remote_files(tmp_path, monkeypatch, remote_config):
    real = builtins.__import__

    def without(name, *arguments, **keywords):
        if name.partition(".")[0] in ("obstore", "fsspec", "google_crc32c"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "0.tar").write_bytes(b"abc")
    storage = open_storage([str(tmp_path / "0.tar")], remote_config())
    assert type(storage) is LocalStorage
    assert storage.read(str(tmp_path / "0.tar"), 1, 1) == b"b"
    with pytest.raises(UserError, match=r"pip install 'clipjax\[remote\]'"):
        open_storage(["s3://bucket/0.tar"], remote_config())


def test_a_mixture_of_paths_web_server_and_bucket(
    tmp_path, server, bucket, remote_config, content, monkeypatch
):
    endpoint, put = bucket
    (tmp_path / "0.tar").write_bytes(content[:1000])
    urls = [
        str(tmp_path / "0.tar"),
        server.add("0.tar", content[1000:100_000]),
        put("a/0.tar", content[100_000:]),
    ]
    storage = open_storage(urls, remote_config(endpoint=endpoint, region="us-east-1"))
    for url in urls:
        storage.prefetch(url, 0, 100)
    sizes = [storage.stat(url).size for url in urls]
    assert sizes == [1000, 99_000, 200_000]
    parts = [storage.read(url, 0, size) for url, size in zip(urls, sizes, strict=True)]
    assert b"".join(parts) == content
    for url in urls:
        storage.forget(url)
        assert storage.read(url, 5, 5) == parts[urls.index(url)][5:10]
    assert storage.stats()["bytes"] > 299_000
    storage.close()


def test_a_missing_file_of_each_kind_is_named(tmp_path, server, remote_config):
    storage = open_storage([f"{server.root}/0.tar", "/0.tar"], remote_config())
    for url in (f"{server.root}/nope.tar", str(tmp_path / "nope.tar")):
        with pytest.raises(StorageError, match=r"nope\.tar"):
            storage.stat(url)
    storage.close()


def test_the_folder_of_blocks_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory(RemoteConfig()) == tmp_path / "clipjax" / "blocks"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/nowhere")
    assert str(cache_directory(RemoteConfig())) == "/nowhere/.cache/clipjax/blocks"
    assert str(cache_directory(RemoteConfig(cache_dir="~/x"))) == "/nowhere/x"
