"""The stand-in for obstore, against the same server."""

import pytest

from clipjax.config import UserError
from clipjax.data.storage import FileStat, StorageError
from clipjax.data.storage.remote import TransientError

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
from clipjax.data.storage.fsspec_client import FsspecClient, _status


@pytest.fixture
def client(remote_config):
    client = FsspecClient(remote_config(request_timeout_seconds=1.0))
    yield client
    client.close()


def test_a_file_is_looked_at_and_read(server, client, content):
    url = server.add("a/0.tar", content)
    stat = client.stat(url)
    assert stat == FileStat(len(content), server.etag("/a/0.tar"))
    assert client.get(url, 1000, 5000, stat) == content[1000:5000]


@pytest.mark.parametrize("status", [429, 503])
def test_overload_may_pass(server, client, content, status):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: status
    with pytest.raises(TransientError, match=str(status)):
        client.get(url, 0, 100, FileStat(len(content), ""))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_mistake_does_not_pass_and_nothing_secret_is_told(server, client, content, status):
    url = server.add("0.tar", content) + "?signature=hush"
    server.fault = lambda number, request: status
    with pytest.raises(StorageError, match=str(status)) as caught:
        client.get(url, 0, 100, FileStat(len(content), ""))
    assert "hush" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "reason"), [("reset", "connection"), ("cut", "connection"), ("stall", "timeout")]
)
def test_a_lost_connection_and_silence_may_pass(server, client, content, fault, reason):
    url = server.add("0.tar", content)
    server.fault = lambda number, request: fault
    with pytest.raises(TransientError, match=reason):
        client.get(url, 0, 200_000, FileStat(len(content), ""))


def test_a_bucket_is_read_and_listed(bucket, remote_config, content):
    pytest.importorskip("s3fs")
    endpoint, put = bucket
    url = put("train/0.tar", content)
    put("train/deep/1.tar", b"x")
    client = FsspecClient(remote_config(endpoint=endpoint, region="us-east-1"))
    stat = client.stat(url)
    assert stat.size == len(content)
    assert client.get(url, 1000, 9000, stat) == content[1000:9000]
    assert client.list_files("s3://shards/train", False) == [url]
    assert sorted(client.list_files("s3://shards", True)) == [url, "s3://shards/train/deep/1.tar"]
    with pytest.raises(StorageError, match="404"):
        client.stat("s3://shards/nope.tar")


def test_a_missing_package_is_named(client):
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"pip install 'clipjax\[remote\]'.*gcsfs"):
            client.stat("gs://bucket/0.tar")


def test_the_status_is_found_in_causes_and_in_answers_of_aws():
    outer = ValueError("x")
    outer.__cause__ = inner = OSError("y")
    inner.response = {"ResponseMetadata": {"HTTPStatusCode": 503}}
    assert _status(outer) == 503
    assert _status(ValueError("x")) == 0
