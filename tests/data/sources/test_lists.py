import csv
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipjax.config.errors import UserError
from clipjax.data.captions import choose_caption
from clipjax.data.decode import BadSampleError
from clipjax.data.sources.lists import LIST_SUFFIXES, ListedFiles
from clipjax.data.sources.source import Source

CAPTIONS = ["a dog, running", 'she said "hi"', "two\nlines", "NA", "007", "犬 é", "  spaces ", "-"]


def rows(names=("filepath", "caption")):
    out = []
    for i, caption in enumerate(CAPTIONS):
        row = {names[0]: f"images/{i}.jpg", names[1]: caption, "score": i / 4, "label": i}
        out.append(row)
    return out


def write_list(path, table):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(table), path, row_group_size=3)
    else:
        with path.open("w", newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(table[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(table)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(len(CAPTIONS)):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(b"image %d" % i)
    return tmp_path


@pytest.mark.parametrize("suffix", LIST_SUFFIXES)
def test_every_format_gives_the_same_samples(folder, suffix):
    path = write_list(folder / f"list{suffix}", rows())
    source = ListedFiles(path, needs=("txt", "json", "cls"))
    assert isinstance(source, Source)
    assert len(source) == len(CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        sample = source[i]
        assert sample["txt"].decode() == caption
        assert sample["image"] == b"image %d" % i
        assert int(sample["cls"]) == i
        fields = json.loads(sample["json"])
        assert (fields["score"], fields["caption"]) == (i / 4, caption)
        assert choose_caption(sample, "json.caption") == caption
    assert source.key(3) == f"{path}: images/3.jpg"
    source.close()
    assert source[1]["image"] == b"image 1"
    source.close()


@pytest.mark.parametrize("suffix", LIST_SUFFIXES)
@pytest.mark.parametrize("index", [-1, len(CAPTIONS)])
def test_an_index_outside_is_an_error(folder, suffix, index):
    source = ListedFiles(write_list(folder / f"list{suffix}", rows()))
    with pytest.raises(IndexError, match=f"sample {index} of {len(CAPTIONS)}"):
        source[index]
    source.close()


@pytest.mark.parametrize(
    "names", [("path", "title"), ("image", "text"), ("image_path", "txt"), ("file_name", "text")]
)
def test_columns_are_found_by_their_usual_names(folder, names):
    source = ListedFiles(write_list(folder / "list.csv", rows(names)))
    assert source[0]["txt"].decode() == CAPTIONS[0]


def test_columns_may_be_given(folder):
    table = [row | {"alt": f"alt {i}"} for i, row in enumerate(rows(("where", "caption")))]
    path = write_list(folder / "list.csv", table)
    source = ListedFiles(path, image_column="where", caption_column="alt")
    assert source[2]["txt"] == b"alt 2"
    assert source.digest() != ListedFiles(path, image_column="where").digest()


@pytest.mark.parametrize("suffix", LIST_SUFFIXES)
def test_missing_columns_are_named(folder, suffix):
    path = write_list(folder / f"list{suffix}", rows(("where", "what")))
    with pytest.raises(
        UserError, match=r"no column of image paths: found 'where'.*one of filepath"
    ):
        ListedFiles(path)
    with pytest.raises(UserError, match=r"no column of captions: found .*one of caption, title"):
        ListedFiles(path, image_column="where")
    with pytest.raises(UserError, match=r"expected 'whare'\. Did you mean 'where'"):
        ListedFiles(path, image_column="whare")
    with pytest.raises(UserError, match=r"no member \.npy"):
        ListedFiles(path, needs=("npy",))


def test_paths_start_in_the_folder_of_the_list_or_in_the_root(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path = write_list(elsewhere / "list.csv", rows())
    assert ListedFiles(path, root=str(folder))[4]["image"] == b"image 4"
    with pytest.raises(UserError, match=r"none of the first 8 images .*'images/0.jpg'") as caught:
        ListedFiles(path)
    assert str(elsewhere) in str(caught.value)
    absolute = [row | {"filepath": str(folder / row["filepath"])} for row in rows()]
    path = write_list(elsewhere / "absolute.csv", absolute)
    assert ListedFiles(path)[4]["image"] == b"image 4"


@pytest.mark.parametrize("suffix", LIST_SUFFIXES)
def test_a_missing_image_is_a_bad_sample(folder, suffix):
    source = ListedFiles(write_list(folder / f"list{suffix}", rows()))
    (folder / "images" / "5.jpg").unlink()
    (folder / "images" / "6.jpg").unlink()
    (folder / "images" / "6.jpg").mkdir()
    for index in (5, 6):
        with pytest.raises(BadSampleError) as caught:
            source[index]
        assert caught.value.reason == "missing file"
    source.close()


def test_urls_are_refused_with_the_name_of_the_column(folder):
    table = [{"filepath": f"https://host/{i}.jpg", "caption": "x"} for i in range(3)]
    with pytest.raises(UserError, match=r"column 'filepath' holds URLs \('https://host/0.jpg'"):
        ListedFiles(write_list(folder / "list.csv", table))
    table = rows() + [{"filepath": "s3://b/x.jpg", "caption": "x", "score": 0, "label": 0}]
    source = ListedFiles(write_list(folder / "list.csv", table))
    with pytest.raises(UserError, match="URLs"):
        source[len(CAPTIONS)]


@pytest.mark.parametrize("text", ["007", "1e3", "2020-01-01", "true", "NaN"])
def test_captions_that_look_like_values_stay_text(folder, text):
    table = [{"path": "images/0.jpg", "caption": text}]
    source = ListedFiles(write_list(folder / "list.csv", table), needs=("txt", "json"))
    assert source[0]["txt"].decode() == json.loads(source[0]["json"])["caption"] == text


def test_captions_of_several_lines_survive_the_ends_of_blocks(folder):
    caption = "\n".join(["a line of a long caption"] * 4000)
    table = [{"path": "images/0.jpg", "caption": f"{i}{caption}"} for i in range(30)]
    source = ListedFiles(write_list(folder / "list.csv", table))
    assert [source[i]["txt"].decode() for i in range(30)] == [f"{i}{caption}" for i in range(30)]


def test_a_column_that_begins_with_numbers_and_goes_on_with_words(folder):
    table = [{"path": "images/0.jpg", "title": "5", "id": "7" * 10} for _ in range(200_000)]
    table.append({"path": "images/1.jpg", "title": "x", "id": "no number"})
    source = ListedFiles(write_list(folder / "list.csv", table), needs=("txt", "json"))
    assert source[0]["txt"] == b"5"
    assert json.loads(source[200_000]["json"])["id"] == "no number"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty; expected a first line"),
        ("a.csv", b"path,caption\n", "has no rows"),
        ("a.csv", b"path,caption\na,b,c\n", "cannot be read as a table .*Expected 2 columns"),
        ("a.csv", b"path,caption\nx.jpg,\xff\xfe\n", "cannot be read .*utf-8"),
        ("a.csv", b"path,path,caption\na,b,c\n", "'path' occurs twice"),
        ("a.tsv", b"a.jpg\ta dog\n", "no column of image paths"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\n \n", "is empty"),
        ("a.jsonl", b"[1, 2]\n", "row 1 is not a JSON object"),
        ("a.jsonl", b"{broken\n", "damaged list: row 1"),
        ("a.parquet", b"PAR1 no", "is not a Parquet file"),
        ("a.parquet", b"", "is not a Parquet file"),
    ],
)
def test_what_is_no_list_is_told(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        ListedFiles(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there(tmp_path):
    for suffix in LIST_SUFFIXES:
        with pytest.raises(UserError, match="No such file"):
            ListedFiles(str(tmp_path / f"none{suffix}"))


def test_parquet_with_the_images_inside_is_refused(tmp_path):
    table = pa.Table.from_pylist([{"image": {"bytes": b"x", "path": None}, "text": "a"}])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"column 'image' holds images themselves"):
        ListedFiles(str(tmp_path / "a.parquet"))


def test_broken_lines_of_jsonl_are_bad_samples(folder):
    lines = ['{"path": "images/0.jpg", "text": "a"}', "{broken", "[]", '{"text": "no path"}', "7 7"]
    (folder / "list.jsonl").write_text("\n\n".join(lines))
    source = ListedFiles(str(folder / "list.jsonl"))
    assert len(source) == 5
    assert source[0]["txt"] == b"a"
    reasons = []
    for index in range(1, 5):
        with pytest.raises(BadSampleError) as caught:
            source[index]
        reasons.append(caught.value.reason)
        assert f"row {index + 1}" in source.key(index)
    assert reasons == ["damaged list", "damaged list", "missing file", "damaged list"]
    source.close()


def test_lists_of_captions_are_read_from_json(folder):
    table = [{"path": "images/0.jpg", "text": ["one", "two"]}]
    for suffix in (".jsonl", ".parquet"):
        path = write_list(folder / f"many{suffix}", table)
        source = ListedFiles(path, needs=("json",))
        assert choose_caption(source[0], "json.text", (0.9, 0.0)) == "two"
        source.close()
        source = ListedFiles(path)
        with pytest.raises(BadSampleError, match=r"json\.COLUMN"):
            source[0]
        source.close()


def test_the_digest_tells_lists_apart(folder):
    path = write_list(folder / "list.csv", rows())
    first = ListedFiles(path).digest()
    copy = folder / "copy.csv"
    copy.write_bytes((folder / "list.csv").read_bytes())
    assert ListedFiles(str(copy)).digest() == first
    assert ListedFiles(path, needs=("txt", "json")).digest() != first
    write_list(folder / "list.csv", rows()[::-1])
    assert ListedFiles(path).digest() != first


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_threads_may_share_an_instance(folder, suffix):
    source = ListedFiles(write_list(folder / f"list{suffix}", rows()), needs=("txt", "json"))
    expected = [source[i] for i in range(len(source))]
    wanted = np.random.default_rng(0).integers(0, len(source), 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(source.__getitem__, wanted))
    assert all(sample == expected[index] for sample, index in zip(got, wanted, strict=True))
    source.close()


text = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=20)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(captions=st.lists(text, min_size=1, max_size=5), suffix=st.sampled_from(LIST_SUFFIXES))
def test_any_caption_survives(folder, captions, suffix):
    table = [{"path": "images/0.jpg", "caption": caption} for caption in captions]
    source = ListedFiles(write_list(folder / f"any{suffix}", table))
    assert [source[i]["txt"].decode() for i in range(len(source))] == captions
    source.close()


def test_memory_is_that_of_the_text(folder):
    import tracemalloc

    count = 50_000
    lines = io.StringIO()
    lines.write("path,caption\n")
    for i in range(count):
        lines.write(f"images/{i % 8}.jpg,caption number {i}\n")
    (folder / "list.csv").write_text(lines.getvalue())
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    source = ListedFiles(str(folder / "list.csv"))
    on_heap = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert on_heap < 4 * count  # no Python object a row
    assert pa.total_allocated_bytes() - before < 4 * os.path.getsize(folder / "list.csv")
    assert source[count - 1]["txt"] == b"caption number 49999"
