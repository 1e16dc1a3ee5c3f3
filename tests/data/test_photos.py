import collections
import io
import json
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data import photos as module
from clipjax.data.photos import load_photos, make_photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stands in for the Debian package: two detailed pictures under names that it has."""
    folder = tmp_path_factory.mktemp("mate")
    (folder / "nature").mkdir()
    for seed, name in enumerate(("Aqua", "Dune")):
        noise = np.random.default_rng(seed).integers(0, 256, (120, 192, 3), np.uint8)
        picture = cv2.resize(noise, (1536, 960), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "nature" / f"{name}.jpg"), picture)
    return folder


@pytest.fixture
def make(folder, monkeypatch, tmp_path):
    loaded = load_photos(folder)
    monkeypatch.setattr(module, "load_photos", lambda: loaded)

    def run(name="out", **arguments):
        return tmp_path / name, make_photos(tmp_path / name, **arguments)

    return run


def pairs(folder):
    out = collections.defaultdict(dict)
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                out[key][ending] = tar.extractfile(member).read()
    return list(out.values())


@pytest.mark.parametrize("kind", ["longest512", "shortest512", "square256"])
def test_sizes_are_those_of_the_set_and_the_figures_are_true(make, kind):
    out, made = make(kind=kind, samples=24)
    sizes, total_bytes, pixels = [], 0, 0
    for pair in pairs(out):
        image = Image.open(io.BytesIO(pair["jpg"]))
        assert image.format == "JPEG"
        assert "progression" not in image.info
        # Colour at half the resolution, as in nearly all JPEGs of the web.
        assert image.layer[0][1:3] == (2, 2)
        assert image.layer[1][1:3] == (1, 1)
        assert np.asarray(image).std() > 5
        metadata = json.loads(pair["json"])
        assert (metadata["width"], metadata["height"]) == image.size
        assert metadata["caption"] == pair["txt"].decode()
        assert len(pair["txt"].decode().split()) >= 3
        sizes.append(image.size)
        total_bytes += len(pair["jpg"])
        pixels += image.width * image.height
    assert len(sizes) == made["samples"] == 24
    if kind == "square256":
        assert set(sizes) == {(256, 256)}
    else:
        assert {(max if kind == "longest512" else min)(size) for size in sizes} == {512}
        assert any(w > h for w, h in sizes)
        assert any(w < h for w, h in sizes)
    assert made["mean_bytes"] == round(total_bytes / 24)
    assert made["mean_bits_per_pixel"] == pytest.approx(8 * total_bytes / pixels, abs=1e-3)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(make):
    a, b, other = (
        pairs(make(name, kind="square256", samples=6, seed=seed)[0])
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert a == b
    assert not {pair["jpg"] for pair in a} & {pair["jpg"] for pair in other}
    assert len({pair["jpg"] for pair in a}) == len({pair["txt"] for pair in a}) == 6


def test_captions_have_natural_length_and_a_tenth_is_odd():
    words = module._words()
    captions = [module._caption(words, 0, number) for number in range(2000)]
    assert 9 <= np.mean([len(caption.split()) for caption in captions]) <= 11
    odd = [c for c in captions if not c.isascii() or "&" in c]
    assert 0.07 <= len(odd) / len(captions) <= 0.13
    counts = collections.Counter(word for c in captions for word in c.lower().split())
    # By Zipf's law a few words are most of the text, and most words are rare.
    assert sum(n for _, n in counts.most_common(50)) > 0.3 * counts.total()
    assert sum(n == 1 for n in counts.values()) > 100


def test_a_complete_set_is_not_made_again_and_another_one_is_refused(make):
    out, made = make(kind="square256", samples=3)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")}
    assert make(kind="square256", samples=3)[1] == made
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.tar")} == before
    with pytest.raises(UserError, match="wanted"):
        make(kind="longest512", samples=3)


def test_without_the_debian_package_those_of_scikit_learn_are_taken(tmp_path):
    pytest.importorskip("sklearn")
    where, photos = load_photos(tmp_path / "nothing")
    assert "scikit-learn" in where
    assert all(photo.ndim == 3 and photo.shape[2] == 3 for photo in photos)
    assert any(photo.shape == (427, 640, 3) for photo in photos)


def test_small_photographs_are_enlarged(monkeypatch, tmp_path):
    pytest.importorskip("sklearn")
    loaded = load_photos(tmp_path / "nothing")
    monkeypatch.setattr(module, "load_photos", lambda: loaded)
    make_photos(tmp_path / "out", kind="shortest512", samples=4)
    for pair in pairs(tmp_path / "out"):
        assert min(Image.open(io.BytesIO(pair["jpg"])).size) == 512


def test_without_any_photograph_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mate-backgrounds, or pip install scikit-image") as told:
        load_photos(tmp_path)
    assert "\n" not in str(told.value)


def test_the_installed_photographs_have_the_weight_of_the_web(tmp_path):
    if not module.MATE_FOLDER.exists():
        pytest.skip("needs the Debian package mate-backgrounds")
    made = make_photos(tmp_path, kind="longest512", samples=80)
    assert made["photographs_from"] == "mate-backgrounds"
    assert 2.2 <= made["mean_bits_per_pixel"] <= 2.9
