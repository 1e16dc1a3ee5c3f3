"""Shards named as files, patterns, folders, manifests and URLs, for all commands that read them."""

import http.server
import io
import re
import threading

import numpy as np
import pytest
from PIL import Image

from clipjax.cli import data_check, data_index, data_make, data_reshard, data_stats
from clipjax.cli.data_shards import add_remote_flags, check_caption, remote_config, shard_urls
from clipjax.cli.parser import Parser
from clipjax.config import RemoteConfig, UsageError, UserError

LOCAL = RemoteConfig()


def run(module, *argv):
    parser = Parser(prog="clipjax data x")
    module.configure(parser)
    return module.run(parser.parse_args(list(map(str, argv))))


@pytest.fixture
def folder(tmp_path, make_tar, monkeypatch):
    """in/: three shards of 4 samples."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "in").mkdir()
    for shard in range(3):
        samples = {}
        for i in range(4):
            buffer = io.BytesIO()
            Image.fromarray(np.full((20, 30, 3), 20 * i, np.uint8)).save(buffer, "png")
            samples[f"k{4 * shard + i}"] = {
                "png": buffer.getvalue(),
                "txt": b"a dog " * (4 * shard + i + 1),
            }
        make_tar(tmp_path / "in" / f"{shard}.tar", samples)
    return tmp_path


@pytest.fixture
def server(folder):
    """The URL of a web server that serves ranges of the files of `folder`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = 0, len(data) - 1
            if found:
                first, last = int(found[1]), min(int(found[2] or last), last)
            self.send_response(206 if found else 200)
            if found:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("ETag", '"1"')
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[first : last + 1])

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_arguments_name_shards(folder):
    every = [f"in/{i}.tar" for i in range(3)]
    assert shard_urls(["in/{0..2}.tar"], LOCAL) == every
    assert shard_urls(["in"], LOCAL) == shard_urls(["in/"], LOCAL) == every
    assert shard_urls([every[2], "in/[01].tar", every[0]], LOCAL) == [every[2], *every[:2]]
    assert shard_urls(["[01].tar"], LOCAL, "in") == every[:2]
    spaced = folder / "a [b] c.tar"
    spaced.touch()
    assert shard_urls([str(spaced)], LOCAL) == [str(spaced)]
    (folder / "list.txt").write_text("in/1.tar\n# no\nin/0.tar\n")
    assert shard_urls(["@list.txt"], LOCAL) == every[:2]
    assert shard_urls(["in/{0..9}.tar"], LOCAL) == [f"in/{i}.tar" for i in range(10)]
    assert shard_urls(["s3://b/{0..1}.tar"], LOCAL) == ["s3://b/0.tar", "s3://b/1.tar"]
    assert shard_urls(["{0..1}.tar"], LOCAL, "s3://b") == ["s3://b/0.tar", "s3://b/1.tar"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("none.tar", r"SHARDS='none\.tar': no such file \(seen from /"),
        ("none{0..3}.tar", "no such file"),
        ("none*.tar", r"SHARDS='none\*\.tar': matches no file \(seen from /"),
        ("empty", "a folder without .tar files"),
        ("pipe:x", r"SHARDS='pipe:x': `pipe:` would run a shell command"),
        ("ftp://x/a.tar", "the scheme ftp:// is not known"),
        ("https://h/*.tar", r"SHARDS='https://h/\*\.tar': a web server cannot be asked"),
        ("@none.txt", "SHARDS='@none.txt': none.txt: No such file"),
        ("", "SHARDS is empty"),
        (" ", "SHARDS is empty"),
    ],
)
def test_arguments_that_name_nothing(folder, argument, message):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        shard_urls(["in/0.tar", argument], LOCAL)
    assert "data." not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_stands_for_its_shards_or_for_its_samples(folder, capsys):
    run(data_index, "in", "--out", "pool", "--min-caption-words", 9)  # k4 and later
    absolute = [str(folder / "in" / f"{i}.tar") for i in range(3)]
    assert shard_urls(["pool"], LOCAL) == shard_urls(["pool/manifest.json"], LOCAL) == absolute
    assert run(data_check, "pool")["samples"] == 12
    for address in ("pool", "pool/manifest.json"):
        assert run(data_stats, address)["samples"] == 8
        assert run(data_make, "--from", address, "--out", f"of_{len(address)}")["samples"] == 8
    figures = run(data_reshard, "pool", "--keep", "txt", "--out", "again")
    assert figures["samples"] == 8
    with pytest.raises(UserError, match=r"was made for samples with \.txt, wanted \.cls"):
        run(data_reshard, "pool", "--keep", "cls", "--out", "other")
    assert "8 samples in 1 shards" in capsys.readouterr().out


@pytest.mark.slow
def test_every_command_reads_shards_of_a_web_server(folder, server):
    pytest.importorskip("obstore")
    shards = f"{server}/in/{{0..2}}.tar"
    index = ("--index-dir", folder / "index")
    report = run(data_check, shards, *index)
    assert (report["samples"], report["problems"]) == (12, {})
    assert run(data_check, "{0..1}.tar", "--root", f"{server}/in", *index)["samples"] == 8
    assert run(data_stats, shards)["distributions"]["width"]["max"] == 30
    assert run(data_reshard, shards, "--keep", "txt", "--out", "a")["samples"] == 12
    assert run(data_make, "--from", shards, "--out", "b")["samples"] == 12
    assert run(data_index, shards, "--out", "c")["samples"] == 12
    missing = f"{server}/in/{{2..3}}.tar"
    report = run(data_check, missing, *index)
    assert report["problems"] == {"unreadable shard": 1}
    with pytest.raises(UserError, match=r"3\.tar"):
        run(data_stats, missing)


@pytest.mark.slow
def test_a_server_that_refuses_is_one_line_soon(folder):
    pytest.importorskip("obstore")
    for module, argv in (
        (data_stats, ()),
        (data_reshard, ("--out", "x")),
        (data_index, ()),
    ):
        with pytest.raises(UserError, match="no answer that can be used") as caught:
            run(module, "http://127.0.0.1:9/a.tar", "--retry-seconds", 0.5, *argv)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no answer that can be used"):
        run(data_make, "--from", "http://127.0.0.1:9/a.tar", "--out=x", "--retry-seconds=0.5")


def parsed(*argv):
    parser = Parser(prog="clipjax data x")
    add_remote_flags(parser)
    return remote_config(parser.parse_args(list(argv)))


def test_remote_flags_become_a_config():
    assert parsed("--endpoint=http://h", "--region=r", "--anonymous") == RemoteConfig(
        endpoint="http://h", region="r", anonymous=True, retry_seconds=60.0
    )
    for flag, message in (
        ("--endpoint=ftp://h", r"--endpoint='ftp://h' must begin with http"),
        ("--endpoint=http://me@h", "--endpoint must hold no user or password"),
        ("--retry-seconds=-1", r"--retry-seconds=-1\.0 must not be negative"),
    ):
        with pytest.raises(UsageError, match=message):
            parsed(flag)


def test_captions():
    check_caption("txt:3 json.captions")
    for caption in ("", "text", "json.", "txt:x"):
        with pytest.raises(UsageError, match=f"--caption='{caption}' must be 'txt'"):
            check_caption(caption)


@pytest.mark.parametrize("module", [data_check, data_stats, data_make])
def test_commands_refuse_captions_and_columns_that_cannot_be(folder, module):
    argv = ("--from", "in", "--out", "x") if module is data_make else ("in",)
    with pytest.raises(UsageError, match="--caption='text' must be"):
        run(module, *argv, "--caption", "text")
    if module is data_make:
        with pytest.raises(UsageError, match="--image-column x: only lists and TFDS"):
            run(module, *argv, "--image-column", "x")
        for address, message in (
            ("", "--from is empty"),
            ("n*.tar", r"--from='n\*\.tar': matches"),
        ):
            with pytest.raises(UserError, match=message) as caught:
                run(module, "--from", address, "--out", "x")
            assert "data." not in str(caught.value)
