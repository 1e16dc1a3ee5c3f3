import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config import UserError
from clipjax.data.storage import (
    Storage,
    StorageError,
    check_url,
    is_remote,
    open_storage,
    shown,
)
from clipjax.data.storage.interface import bucket_and_key
from clipjax.data.storage.local import LocalStorage


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("s3://bucket/0.tar", True),
        ("gs://bucket/0.tar", True),
        ("http://host/0.tar", True),
        ("HTTPS://host/0.tar", True),
        ("/data/0.tar", False),
        ("data/s3://x", False),
        ("file:///data/0.tar", False),
        ("s3:/bucket/0.tar", False),
        ("", False),
    ],
)
def test_remote_is_what_has_one_of_four_schemes(url, remote):
    assert is_remote(url) is remote


@pytest.mark.parametrize("url", ["pipe:cat 0.tar", "PIPE:rm -r x", "pipe:"])
def test_a_command_is_refused_everywhere(url, remote_config):
    with pytest.raises(UserError, match="shell command"):
        check_url(url)
    with pytest.raises(UserError, match="shell command"):
        open_storage([url], remote_config())


@pytest.mark.parametrize("url", ["ftp://host/0.tar", "file:///0.tar", "hf://a/b", "az://c/0.tar"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(url):
    with pytest.raises(UserError, match=r"is not known.*s3://, gs://, http://"):
        check_url(url)


@pytest.mark.parametrize("url", ["a/pipe:x", "./pipe:x", "x::y", "C:/0.tar", "s3:/0.tar", "{a,b}"])
def test_paths_with_odd_characters_are_paths(url):
    check_url(url)


def test_credentials_of_a_bucket_are_refused_and_not_repeated():
    with pytest.raises(UserError, match="environment") as caught:
        check_url("s3://AKIA:hush@bucket/0.tar")
    assert "hush" not in str(caught.value)
    check_url("s3://bucket/me@home.tar")


@given(st.text("abc@:?&=/.", max_size=8), st.text("abc:", min_size=1, max_size=8))
def test_no_credentials_are_shown(path, secret):
    marked = f"QQ{secret}QQ"
    for url in (
        f"https://me:{marked}@host/{path.replace('?', '')}",
        f"https://host/a.tar?sig={marked}",
        f"https://{marked}@host?sig={marked}",
    ):
        assert "QQ" not in shown(url), url
        assert "host" in shown(url)


def test_a_url_without_secrets_is_shown_as_it_is():
    for url in ("https://host/a/b.tar", "s3://bucket/k@y.tar", "/a?b", "a@b/c"):
        assert shown(url) == url


def test_keys_keep_their_characters():
    assert bucket_and_key("s3://bucket/a%20b/c#d?.tar") == ("bucket", "a%20b/c#d?.tar")


def test_storages_keep_the_promise(remote_config):
    assert isinstance(LocalStorage(), Storage)
    mixed = open_storage(["http://127.0.0.1:1/x", "/x"], remote_config())
    assert isinstance(mixed, Storage)
    mixed.close()
    assert issubclass(StorageError, UserError)
