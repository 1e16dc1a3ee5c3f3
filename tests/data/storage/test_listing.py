import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipjax.config import UsageError, UserError
from clipjax.config.data import RemoteConfig
from clipjax.data.storage import check_url, expand_shards, is_remote, list_urls
from clipjax.data.storage.listing import _as_path

LOCAL = RemoteConfig()


@pytest.fixture
def tree(tmp_path):
    for name in ("a/0.tar", "a/1.tar", "a/2.tar", "b/7.tar", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def both(root, patterns):
    """`list_urls` and `expand_shards` agree on local files."""
    found = list_urls(str(root), patterns, LOCAL)
    assert expand_shards(str(root), patterns) == found
    return found


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("a/*.tar", "a/0.tar a/1.tar a/2.tar"),
        ("a/{0..1}.tar", "a/0.tar a/1.tar"),
        ("a/{00000..00002}.tar", "a/00000.tar a/00001.tar a/00002.tar"),
        ("{b,a}/*.tar", "a/0.tar a/1.tar a/2.tar b/7.tar"),
        ("b/7.tar a/0.tar", "a/0.tar b/7.tar"),
        ("a/*.tar a/0.tar", "a/0.tar a/1.tar a/2.tar"),
        ("a/[02].tar", "a/0.tar a/2.tar"),
        ("b/?.tar", "b/7.tar"),
    ],
)
def test_patterns_name_local_files_sorted_and_once(tree, patterns, expected):
    assert both(tree, patterns) == [str(tree / name) for name in expected.split()]


@pytest.mark.parametrize("folder", ["run [1]", "{a,b}", "x::y", "50*"])
def test_the_root_is_a_path_and_no_pattern(tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "0.tar").write_bytes(b"")
    assert both(tmp_path / folder, "*.tar") == [str(tmp_path / folder / "0.tar")]


@pytest.mark.parametrize("root", ["pipe:touch x;", "http://host", "x://y", "."])
def test_a_local_root_makes_paths_whatever_it_is_called(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (found,) = expand_shards(root, "0.tar")
    assert found.startswith("./")
    assert not is_remote(found)
    check_url(found)
    assert os.path.normpath(found) == os.path.normpath(os.path.join(root, "0.tar"))


@pytest.mark.parametrize("patterns", ["", "   "])
def test_no_pattern_is_an_error(tree, patterns):
    with pytest.raises(UsageError, match=r"data\.shards is empty.*--config\.data\.shards="):
        list_urls(str(tree), patterns, LOCAL)


def test_a_pattern_without_a_file_is_named(tree):
    with pytest.raises(UserError) as caught:
        list_urls(str(tree), "a/*.tar c/*.tar", LOCAL)
    message = str(caught.value)
    assert "data.shards='c/*.tar'" in message
    assert f"data.root={str(tree)!r}" in message
    assert "clipjax data emoji" in message


@pytest.mark.parametrize("pattern", ["a/{0..", "a/${NOT_SET}.tar", "{1..2}}{"])
def test_a_pattern_that_cannot_be_expanded_is_told_or_taken_literally(tree, pattern):
    try:
        told = " ".join(list_urls(str(tree), pattern, LOCAL))
    except UserError as error:
        told = str(error)
    assert str(tree) in told or "{00000..00041}" in told


@pytest.mark.parametrize(
    "pattern", ["pipe:touch\tMARK", "pipe:touch${IFS}MARK", "{pipe:touch${X},b}", "a::pipe:x"]
)
def test_nothing_is_executed(tree, pattern, monkeypatch):
    monkeypatch.chdir(tree)
    monkeypatch.setenv("WDS_IFS", " ")
    monkeypatch.setenv("WDS_X", " MARK")
    with pytest.raises(UserError):
        list_urls("", pattern.replace("MARK", str(tree / "MARK")), LOCAL)
    assert not (tree / "MARK").exists()


@pytest.mark.parametrize("pattern", ["http://localhost/0.tar", "gs://bucket/{0..3}.tar", "pipe:x"])
def test_the_old_function_reads_this_machine_only(tree, pattern):
    with pytest.raises(UserError, match="only files of this machine can be read"):
        expand_shards(str(tree), pattern)


def test_urls_are_expanded_without_asking_anybody():
    assert list_urls("/data", "s3://b/{09..11}.tar https://h/x.tar?sig=a?b 0.tar", LOCAL) == [
        "/data/0.tar",
        "https://h/x.tar?sig=a?b",
        "s3://b/09.tar",
        "s3://b/10.tar",
        "s3://b/11.tar",
    ]


def test_a_remote_root_stands_before_relative_patterns():
    found = list_urls("https://h/d/", "{0..1}.tar s3://b/x.tar /local.tar", LOCAL)
    assert found == ["/local.tar", "https://h/d/0.tar", "https://h/d/1.tar", "s3://b/x.tar"]


@pytest.mark.parametrize(("root", "pattern"), [("", "https://h/*.tar?s=hush"), ("http://h", "*")])
def test_a_web_server_cannot_be_listed(root, pattern):
    with pytest.raises(UserError, match=r"with braces, \{00000\.\.00041\}") as caught:
        list_urls(root, pattern, LOCAL)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["s3://*/x.tar", "gs://buck*/x.tar", "s3://b?"])
def test_the_name_of_a_bucket_is_no_pattern(pattern):
    with pytest.raises(UserError, match="bucket cannot be a pattern"):
        list_urls("", pattern, LOCAL)


def test_a_bucket_is_listed(bucket, remote_config):
    endpoint, put = bucket
    for key in ("00.tar", "t/00.tar", "t/01.tar", "t/x.txt", "t/a/02.tar", "t/b c/03.tar"):
        put(key, b"x")
    config = remote_config(endpoint=endpoint, region="us-east-1")

    def found(patterns, root="/data"):
        return [url.removeprefix("s3://shards/") for url in list_urls(root, patterns, config)]

    assert found("s3://shards/t/*.tar") == ["t/00.tar", "t/01.tar"]
    assert found("s3://shards/*.tar") == ["00.tar"]
    assert found("s3://shards/*/0?.tar") == ["t/00.tar", "t/01.tar"]
    assert found("s3://shards/t/*/0*.tar") == ["t/a/02.tar", "t/b c/03.tar"]
    assert found("s3://shards/t/{a,b}*/*.tar") == ["t/a/02.tar", "t/b c/03.tar"]
    assert found("s3://shards/t/0[1-9].tar") == ["t/01.tar"]
    assert found("*.tar a/*.tar", root="s3://shards/t") == ["t/00.tar", "t/01.tar", "t/a/02.tar"]
    with pytest.raises(UserError, match=r"'s3://shards/u/\*\.tar': matches no file"):
        found("s3://shards/u/*.tar")


@pytest.mark.slow
def test_more_files_than_one_answer_holds_are_listed(bucket, remote_config):
    import obstore
    from obstore.store import S3Store

    endpoint, _ = bucket
    options = {"endpoint": endpoint, "region": "us-east-1"}
    store = S3Store("shards", client_options={"allow_http": True}, **options)
    for number in range(1005):
        obstore.put(store, f"many/{number:05d}.tar", b"")
    assert len(list_urls("", "s3://shards/many/*.tar", remote_config(**options))) == 1005


def test_a_list_in_a_file(tree):
    (tree / "list.txt").write_text(
        "# shards\n\ns3://b/1.tar\nhttps://h/x y.tar?a=*\na/{0}.tar\n/abs/*.tar\n s3://b/1.tar \n"
    )
    assert list_urls(str(tree), "@list.txt b/7.tar", LOCAL) == [
        "/abs/*.tar",
        f"{tree}/a/{{0}}.tar",
        f"{tree}/b/7.tar",
        "https://h/x y.tar?a=*",
        "s3://b/1.tar",
    ]
    assert list_urls("s3://b", f"@{tree}/list.txt", LOCAL)[1:3] == ["https://h/x y.tar?a=*"] + [
        "s3://b/1.tar"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ("# nothing\n", "matches no file"), ("pipe:rm x\n", "shell command")],
)
def test_a_list_that_cannot_be_used_is_named(tree, text, message):
    if text is not None:
        (tree / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        list_urls(str(tree), "@list.txt", LOCAL)
    assert "@list.txt" in str(caught.value)


@given(st.text("pie:/.sx3", max_size=12))
def test_no_path_looks_like_a_command_or_a_url(path):
    made = _as_path(path)
    check_url(made)
    assert not is_remote(made)
    assert os.path.normpath(made) == os.path.normpath(path)
