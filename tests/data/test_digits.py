import collections
import hashlib
import io
import json
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from clipjax.config.errors import UsageError, UserError
from clipjax.data import digits as module
from clipjax.data.digits import SPLITS, compose, make_digits, number_name

SMALL = {"train_samples": 1000, "eval_samples_per_number": 2}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "out"
    return out, make_digits(out, **SMALL)


@pytest.fixture(scope="session")
def pairs(made):
    return {split: read(made[0] / split) for split in SPLITS}


def read(folder):
    out = []
    for path in sorted(folder.glob("*.tar")):
        by_key = collections.defaultdict(dict)
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                by_key[key][ending] = tar.extractfile(member).read()
        assert list(by_key) == sorted(by_key)
        for key, pair in by_key.items():
            metadata = json.loads(pair["json"])
            assert metadata["key"] == key
            pixels = np.asarray(Image.open(io.BytesIO(pair["png"])))
            digest = hashlib.sha256(pixels.tobytes()).hexdigest()
            text, label = pair["txt"].decode(), int(pair["cls"])
            out.append({**metadata, "text": text, "cls": label, "pixels": pixels, "hash": digest})
    return out


def test_counts(made, pairs):
    assert made[1]["splits"] == {"train": 1000, "seen": 160, "unseen": 40}
    assert {split: len(of_split) for split, of_split in pairs.items()} == made[1]["splits"]
    assert json.loads((made[0] / "dataset.json").read_text()) == made[1]


def test_eighty_numbers_are_trained_and_twenty_never_seen(pairs):
    numbers = {split: {one["number"] for one in of_split} for split, of_split in pairs.items()}
    assert numbers["train"] == numbers["seen"]
    assert len(numbers["train"]) == 80
    assert numbers["unseen"] == set(range(100)) - numbers["train"]
    for place in (lambda number: number // 10, lambda number: number % 10):
        assert set(collections.Counter(map(place, numbers["unseen"])).values()) == {2}


def test_held_out_images_are_not_trained(pairs):
    sources = {s: {image for one in pairs[s] for image in one["sources"]} for s in SPLITS}
    assert not sources["train"] & (sources["seen"] | sources["unseen"])
    assert len(sources["seen"] | sources["unseen"]) <= 360
    hashes = {split: {one["hash"] for one in pairs[split]} for split in SPLITS}
    assert not hashes["train"] & (hashes["seen"] | hashes["unseen"])
    assert len(hashes["train"]) == 1000
    halves = {s: {h.tobytes() for one in pairs[s] for h in half(one["pixels"])} for s in SPLITS}
    assert not halves["train"] & (halves["seen"] | halves["unseen"])


def half(pixels):
    return pixels[:, :16], pixels[:, 16:]


def test_captions_labels_and_names_agree(made, pairs):
    classes = (made[0] / "numbers/classnames.txt").read_text().splitlines()
    templates = (made[0] / "numbers/zeroshot_classification_templates.txt").read_text()
    names = (made[0] / "names.txt").read_text().splitlines()
    assert classes[0] == "zero zero"
    assert classes[37] == "three seven"
    assert len(classes) == 100
    for one in (one for of_split in pairs.values() for one in of_split):
        assert one["text"] == one["caption"] == names[one["cls"]]
        assert one["text"] == templates.strip().replace("{c}", classes[one["cls"]])
        assert one["cls"] == one["label"] == one["number"]


def test_the_caption_names_the_digits_in_the_picture(pairs):
    digits = pytest.importorskip("sklearn.datasets").load_digits().target.tolist()
    for one in pairs["unseen"]:
        left, right = one["sources"]
        assert one["text"] == f"a handwritten {number_name(10 * digits[left] + digits[right])}"


def test_picture_has_the_left_digit_on_the_left():
    white, black = np.full((8, 8), 255, np.uint8), np.zeros((8, 8), np.uint8)
    pixels = np.asarray(compose(black, white, 32))
    assert pixels.shape == (32, 32, 3)
    assert pixels[:, :16].max() == 0
    assert pixels[:, 16:].min() == 255


def test_a_second_run_gives_the_same_bytes(made, tmp_path):
    make_digits(tmp_path / "again", **SMALL)
    files = [path for path in sorted(made[0].rglob("*")) if path.is_file()]
    for path in (path for path in files if not path.name.endswith("_stats.json")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(made[0])).read_bytes()


def test_a_complete_folder_is_left_alone(made, monkeypatch, capsys):
    monkeypatch.setattr(module, "_load_digits", lambda: pytest.fail("made again"))
    assert make_digits(made[0], **SMALL) == made[1]
    assert capsys.readouterr().err == f"{made[0]}: already complete\n"
    with pytest.raises(UserError, match="Choose another folder with --out"):
        make_digits(made[0], **SMALL, seed=1)


def test_an_interrupted_run_starts_again(made, tmp_path, monkeypatch):
    def interrupted(*_):
        calls.append(1)
        if len(calls) > 1010:  # in the second split
            raise KeyboardInterrupt
        return compose(*_)

    calls = []
    monkeypatch.setattr(module, "compose", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path, **SMALL)
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["dataset.json.partial", "train/00000.tar", "train/00000_stats.json"]
    monkeypatch.setattr(module, "compose", compose)
    assert make_digits(tmp_path, **SMALL) == made[1]
    assert not (tmp_path / "dataset.json.partial").exists()


def test_without_scikit_learn_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'clipjax\[digits\]'"):
        make_digits(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 33}, "--size 33: wanted an even number"),
        ({"seed": -1}, "--seed -1: wanted 0 or more"),
        ({"train_samples": 0}, "--train-samples 0: wanted 1 to 800,000"),
        ({"eval_samples_per_number": 1297}, "--eval-samples-per-number 1297: wanted 1 to 1,296"),
    ],
)
def test_refuses_what_cannot_be(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        make_digits(tmp_path / "out", **arguments)
