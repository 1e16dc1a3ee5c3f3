"""Every fault of a server, through the real library: what it becomes."""

import json
import time

import pytest

from clipjax.data.storage import ChangedError, FileStat, StorageError
from clipjax.data.storage.remote import TransientError

obstore_client = pytest.importorskip("clipjax.data.storage.obstore_client")
ObstoreClient = obstore_client.ObstoreClient


@pytest.fixture
def client(remote_config):
    client = ObstoreClient(remote_config(request_timeout_seconds=1.0))
    yield client
    client.close()


def always(server, fault):
    server.fault = lambda number, request: fault


def test_size_and_etag_cost_one_request_of_one_byte(server, client, content):
    url = server.add("a/0.tar", content)
    assert client.stat(url) == FileStat(len(content), server.etag("/a/0.tar"))
    assert [(r.method, r.start, r.end) for r in server.requests] == [("GET", 0, 1)]


def test_an_empty_file_has_no_bytes(server, client):
    assert client.stat(server.add("0.tar", b"")).size == 0


def test_a_server_that_tells_no_version(server, client, content):
    url = server.add("0.tar", content)
    always(server, "bare")
    stat = client.stat(url)
    assert stat == FileStat(len(content), "")
    assert client.get(url, 5, 9, stat) == content[5:9]


def test_the_date_is_the_version_where_there_is_no_etag():
    import datetime

    date = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    meta = {"size": 3, "e_tag": None, "last_modified": date}
    assert obstore_client._file_stat(meta) == FileStat(3, "2020-01-02T00:00:00+00:00")


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["stat", "get"])
def test_overload_may_pass(server, client, content, status, method):
    url = server.add("0.tar", content)
    always(server, status)
    with pytest.raises(TransientError, match=str(status)):
        ask(client, method, url, content)
    assert len(server.requests) == 1


def ask(client, method, url, content):
    if method == "stat":
        return client.stat(url)
    return client.get(url, 0, 1000, FileStat(len(content), ""))


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "region"), (401, "credentials"), (403, "credentials"), (404, "URL"), (410, "taken")],
)
@pytest.mark.parametrize("method", ["stat", "get"])
def test_a_mistake_does_not_pass_and_nothing_secret_is_told(
    server, client, content, status, advice, method
):
    server.add("0.tar", content)
    url = server.root.replace("//", "//me:hush@") + "/0.tar?signature=hush"
    always(server, status)
    with pytest.raises(StorageError, match=advice) as caught:
        ask(client, method, url, content)
    text = str(caught.value)
    assert f"{server.root}/0.tar?...: the server answered {status}" in text
    assert "\n" not in text
    assert "hush" not in text
    assert "secret" not in text  # the server's page
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "reason"), [("reset", "connection"), ("cut", "connection"), ("stall", "timeout")]
)
def test_a_lost_connection_and_silence_may_pass(server, client, content, fault, reason):
    url = server.add("0.tar", content)
    stat = client.stat(url)
    always(server, fault)
    started = time.monotonic()
    with pytest.raises(TransientError, match=reason):
        client.get(url, 0, 200_000, stat)
    assert time.monotonic() - started < 3


def test_nobody_there_may_pass(client):
    with pytest.raises(TransientError, match="connection"):
        client.stat("http://127.0.0.1:1/0.tar")


def test_a_server_without_ranges_is_of_no_use(server, client, content):
    url = server.add("0.tar", content)
    always(server, "whole")
    with pytest.raises(StorageError, match="whole files only"):
        client.stat(url)


def test_a_redirect_to_nowhere_names_the_region(server, client, content):
    url = server.add("0.tar", content)
    always(server, 301)
    with pytest.raises(StorageError, match=r"data\.remote\.region"):
        client.stat(url)


@pytest.mark.parametrize("fault", [None, "weak"])
@pytest.mark.parametrize("size", [0, 10])
def test_a_file_that_changed_is_noticed(server, client, content, fault, size):
    url = server.add("0.tar", content)
    always(server, fault)
    stat = client.stat(url)
    assert client.get(url, 7, 50, stat) == content[7:50]
    server.add("0.tar", content[::-1] + bytes(size))
    with pytest.raises(ChangedError, match="changed since it was first read"):
        client.get(url, 7, 50, stat)


def test_a_file_that_has_become_short_has_changed(server, client, content):
    url = server.add("0.tar", content)
    always(server, "bare")
    stat = client.stat(url)
    server.add("0.tar", content[:10])
    with pytest.raises(ChangedError):
        client.get(url, 100, 150, stat)


@pytest.mark.parametrize("name", ["a b.tar", "ü.tar", "a%20b.tar", "a+b,c=d.tar", "d/e/f.tar"])
def test_names_travel_unchanged(server, client, name):
    from urllib.parse import quote

    server.add(name, b"content")
    stat = client.stat(f"{server.root}/{quote(name)}")
    assert client.get(f"{server.root}/{quote(name)}", 1, 4, stat) == b"ont"


def test_the_query_of_a_signed_url_and_the_user_reach_the_server(server, client):
    server.add("d/0.tar", b"content")
    client.stat(server.root.replace("//", "//me:p%40ss@") + "/d/0.tar?a=1&b=x%2Fy")
    assert server.requests[0].path == "/d/0.tar?a=1&b=x%2Fy"
    headers = {name.lower(): value for name, value in server.requests[0].headers.items()}
    assert headers["authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss
    client.stat(f"{server.root}/d/0.tar")
    assert "authorization" not in {name.lower() for name in server.requests[1].headers}


def test_files_of_one_server_share_a_store(server, client):
    for number in range(5):
        client.stat(server.add(f"{number}.tar", b"x"))
    assert len(client._stores) == 1


def test_a_bucket_is_read_and_listed(bucket, remote_config, content):
    endpoint, put = bucket
    url = put("train/0.tar", content)
    put("train/deep/1.tar", b"x")
    client = ObstoreClient(remote_config(endpoint=endpoint, region="us-east-1"))
    stat = client.stat(url)
    assert stat.size == len(content)
    assert client.get(url, 1000, 9000, stat) == content[1000:9000]
    assert client.list_files("s3://shards/train", False) == [url]
    assert sorted(client.list_files("s3://shards", True)) == [url, "s3://shards/train/deep/1.tar"]
    put("train/0.tar", content[::-1])
    with pytest.raises(ChangedError):
        client.get(url, 1000, 9000, stat)
    with pytest.raises(StorageError, match=r"s3://shards/train/9\.tar: the server answered 404"):
        client.stat("s3://shards/train/9.tar")
    with pytest.raises(StorageError, match="404"):
        client.list_files("s3://another/train", False)
    assert client.stat(put("empty.tar", b"")).size == 0


def test_an_anonymous_client_signs_nothing(server, remote_config, content, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    server.add("bucket/0.tar", content)
    for anonymous in (True, False):
        client = ObstoreClient(
            remote_config(endpoint=server.root, region="us-east-1", anonymous=anonymous)
        )
        client.stat("s3://bucket/0.tar")
        headers = {name.lower(): value for name, value in server.requests[-1].headers.items()}
        assert ("authorization" in headers) is not anonymous
        assert "hush-hush" not in str(headers)


def test_keys_of_aws_are_taken_from_its_shared_file(tmp_path, server, remote_config, monkeypatch):
    pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = shared\naws_secret_access_key = hush\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    server.add("bucket/0.tar", b"x")
    client = ObstoreClient(remote_config(endpoint=server.root, region="us-east-1"))
    client.stat("s3://bucket/0.tar")
    headers = {name.lower(): value for name, value in server.requests[-1].headers.items()}
    assert "Credential=shared/" in headers["authorization"]


def test_a_google_bucket_at_a_stand_in(server, remote_config, content, tmp_path, monkeypatch):
    empty = ("client_email", "private_key", "private_key_id")
    account = {"gcs_base_url": server.root, "disable_oauth": True}
    file = tmp_path / "account.json"
    file.write_text(json.dumps({**account, **dict.fromkeys(empty, "")}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(file))
    server.add("bucket/train/0.tar", content)
    client = ObstoreClient(remote_config())
    stat = client.stat("gs://bucket/train/0.tar")
    assert stat.size == len(content)
    assert client.get("gs://bucket/train/0.tar", 3, 500, stat) == content[3:500]
    always(server, 503)
    with pytest.raises(TransientError, match="503"):
        client.get("gs://bucket/train/0.tar", 3, 500, stat)


def test_missing_credentials_are_no_reason_to_wait_but_expiring_ones_are(client):
    class GenericError(Exception):
        pass

    error = GenericError("Generic S3 error: Error performing PUT http://169.254.169.254/latest")
    told = client._told("s3://bucket/x", error)
    assert isinstance(told, StorageError)
    assert "no credentials were found" in str(told)
    client._has_answered = True
    assert isinstance(client._told("s3://bucket/x", error), TransientError)


@pytest.mark.parametrize("url", ["s3://Bad Bucket/x", "http:///x", "http://[::1/x"])
def test_a_place_that_cannot_be_is_told_in_one_line(client, url):
    with pytest.raises((StorageError, TransientError)) as caught:
        client.stat(url)
    assert "\n" not in str(caught.value)


def test_the_server_is_told_which_version_is_wanted(server, client, content):
    url = server.add("0.tar", content)
    stat = client.stat(url)
    client.get(url, 0, 10, stat)
    headers = {name.lower(): value for name, value in server.requests[-1].headers.items()}
    assert headers["if-match"] == stat.version


def test_another_size_is_another_file_where_there_is_no_version(server, client, content):
    url = server.add("0.tar", content)
    always(server, "bare")
    stat = client.stat(url)
    server.add("0.tar", content + b"more")
    with pytest.raises(ChangedError):
        client.get(url, 0, 10, stat)
