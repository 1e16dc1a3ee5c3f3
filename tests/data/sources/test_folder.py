import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from clipjax.config.errors import UserError
from clipjax.data.decode import BadSampleError
from clipjax.data.sources.folder import ImageFolder, open_folder
from clipjax.data.sources.lists import ListedFiles
from clipjax.data.sources.source import Source


def fill(root, files):
    """Writes {path: content}; a content of None is the path itself."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() if content is None else content)
    return str(root)


def classes(root):
    names = (
        "zebra/1.jpg",
        "zebra/deep/0.PNG",
        "tree_frog/b.jpeg",
        "tree_frog/a.webp",
        "ice-cream/x.jpg",
    )
    return fill(root, dict.fromkeys(names))


def test_class_folders_caption_their_images(tmp_path):
    source = ImageFolder(classes(tmp_path), needs=("txt", "cls"))
    assert isinstance(source, Source)
    assert source.class_names == ("ice-cream", "tree_frog", "zebra")
    found = [(s["image"], s["txt"], s["cls"]) for s in (source[i] for i in range(len(source)))]
    assert found == [
        (b"ice-cream/x.jpg", b"ice cream", b"0"),
        (b"tree_frog/a.webp", b"tree frog", b"1"),
        (b"tree_frog/b.jpeg", b"tree frog", b"1"),
        (b"zebra/1.jpg", b"zebra", b"2"),
        (b"zebra/deep/0.PNG", b"zebra", b"2"),
    ]
    assert source.key(4) == f"{tmp_path}: zebra/deep/0.PNG"
    assert source.num_incomplete == 0
    source.close()


def test_captions_beside_the_images(tmp_path):
    root = fill(
        tmp_path,
        {
            "b.jpg": None,
            "b.txt": b"b's caption",
            "a.png": None,
            "a.txt": b"a's",
            "a.json": b"{}",
            "sub/c.jpg": None,
            "sub/c.txt": b"c's",
            "alone.jpg": None,
            "notes.txt": b"no image",
            ".hidden.jpg": None,
            ".cache/d.jpg": None,
        },
    )
    source = ImageFolder(root)
    assert [dict(source[i]) for i in range(len(source))] == [
        {"image": b"a.png", "txt": b"a's"},
        {"image": b"b.jpg", "txt": b"b's caption"},
        {"image": b"sub/c.jpg", "txt": b"c's"},
    ]
    assert (source.num_incomplete, source.example_incomplete) == (1, "alone.jpg")
    assert len(ImageFolder(root, needs=("txt", "json"))) == 1


def test_images_in_the_root_of_class_folders_are_passed_over(tmp_path):
    classes(tmp_path)
    fill(tmp_path, {"stray.jpg": None})
    source = ImageFolder(str(tmp_path), needs=("txt",))
    assert (len(source), source.num_incomplete, source.example_incomplete) == (5, 1, "stray.jpg")


@pytest.mark.parametrize(
    ("files", "needs", "message"),
    [
        ({}, ("txt",), "no image below it. Expected .jpg, .* found nothing"),
        ({"a/b.gif": None, "c.bmp": None}, ("txt",), "found .bmp, .gif"),
        ({"a.jpg": None}, ("txt",), "1 images but no captions .*NAME.txt beside NAME.jpg"),
        ({"a/a.jpg": None}, ("json",), r"1 images but no captions for \.json"),
        ({"a.jpg": None, "a.txt": None}, ("txt", "cls"), r"none of 1 images has .txt, .cls beside"),
        ({"a/b.jpg": None, "empty/c.txt": None}, ("cls",), "class folder 'empty' holds no image"),
    ],
)
def test_what_is_no_data_set_is_told(tmp_path, files, needs, message):
    root = fill(tmp_path, files)
    with pytest.raises(UserError, match=message):
        ImageFolder(root, needs=needs)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        ImageFolder(str(tmp_path / "none"))


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_outside_is_an_error(tmp_path, index):
    with pytest.raises(IndexError, match=f"sample {index} of 5"):
        ImageFolder(classes(tmp_path))[index]


def test_a_file_that_went_away_is_a_bad_sample(tmp_path):
    source = ImageFolder(classes(tmp_path))
    (tmp_path / "zebra" / "1.jpg").unlink()
    with pytest.raises(BadSampleError) as caught:
        source[3]
    assert caught.value.reason == "missing file"


def test_links_are_followed_once(tmp_path):
    classes(tmp_path)
    os.symlink(tmp_path, tmp_path / "zebra" / "loop")
    os.symlink(tmp_path / "zebra" / "1.jpg", tmp_path / "zebra" / "2.jpg")
    os.symlink(tmp_path / "nowhere", tmp_path / "zebra" / "broken.jpg")
    source = ImageFolder(str(tmp_path))
    assert len(source) == 6


def test_names_need_not_be_utf8(tmp_path):
    (tmp_path / "a").mkdir()
    with open(os.fsencode(tmp_path) + b"/a/\xff\xfe.jpg", "wb") as file:
        file.write(b"x")
    source = ImageFolder(str(tmp_path))
    assert source[0] == {"image": b"x", "txt": b"a"}
    assert len(source.digest()) == 64


def test_the_digest_is_of_the_paths(tmp_path, tmp_path_factory):
    first = ImageFolder(classes(tmp_path))
    copy = ImageFolder(classes(tmp_path_factory.mktemp("copy")))
    assert first.digest() == copy.digest()
    assert first.digest() != ImageFolder(str(tmp_path), needs=("txt", "cls")).digest()
    fill(tmp_path, {"zebra/3.jpg": None})
    assert ImageFolder(str(tmp_path)).digest() != first.digest()


def test_threads_may_share_an_instance(tmp_path):
    source = ImageFolder(classes(tmp_path), needs=("txt", "cls"))
    expected = [source[i] for i in range(5)]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(source.__getitem__, [i % 5 for i in range(200)]))
    assert got == [expected[i % 5] for i in range(200)]


def test_a_list_in_the_folder_says_what_there_is(tmp_path):
    fill(tmp_path, {"a.jpg": None, "in/b.jpg": None, "in/c.jpg": None})
    lines = [{"file_name": "in/b.jpg", "text": "a b"}, {"file_name": "a.jpg", "text": "an a"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_folder(str(tmp_path), ("txt",))
    assert isinstance(source, ListedFiles)
    assert [source[i]["txt"] for i in range(len(source))] == [b"a b", b"an a"]
    source.close()
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "captions.csv").write_text("path,caption\na.jpg,hello\n")
    assert open_folder(str(tmp_path))[0]["txt"] == b"hello"
    (tmp_path / "metadata.csv").write_text("")
    with pytest.raises(UserError, match=r"metadata.csv and captions.csv.*not clear"):
        open_folder(str(tmp_path))


def test_a_folder_without_a_list_is_read_by_its_places(tmp_path):
    assert isinstance(open_folder(classes(tmp_path)), ImageFolder)
