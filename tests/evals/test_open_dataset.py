"""Every layout, and what is said of a mistake in each."""

import io
import re
import shutil
import tarfile

import numpy as np
import pytest

from clipjax.config import UserError
from clipjax.config.benchmarks import BENCHMARKS, Benchmark
from clipjax.data.decode import BadSampleError
from clipjax.data.resize import EvaluationTransform
from clipjax.evals.open_suite import open_benchmark
from clipjax.evals.places import MissingDataError, addresses, find
from clipjax.evals.prompts import PromptFiles
from clipjax.evals.suites import benchmark_of

TRANSFORM = EvaluationTransform()


def opened(name, root, **options):
    return open_benchmark(benchmark_of(name), str(root), TRANSFORM, **options)


def pixels(dataset, index):
    out = np.zeros((8, 8, 3), np.uint8)
    dataset.items.fill(int(index), out)
    return out


@pytest.fixture
def copy(benchmark_root, tmp_path):
    """A copy of one data set that a test may spoil."""

    def make(name):
        shutil.copytree(benchmark_root / name, tmp_path / name)
        return tmp_path / name

    return make


def rewrite(path, change):
    """Writes a tar anew with `change(name, content)` for every file; None leaves it out."""
    with tarfile.open(path) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            changed = change(name, content)
            if changed is not None:
                info = tarfile.TarInfo(name)
                info.size = len(changed)
                tar.addfile(info, io.BytesIO(changed))


def test_classification_in_the_published_layout(benchmark_root):
    found = opened("folder:colours", benchmark_root)
    assert found.kind == "classification"
    assert len(found.items) == len(found.keys) == len(set(found.keys)) == 16
    assert found.prompts.templates == ["a {c} square", "{c}"]
    assert "classnames.txt" in found.prompts.source
    assert found.truth["label"].shape == (16,)
    assert pixels(found, 0).any()


def test_the_same_pictures_in_four_layouts_are_the_same_data(benchmark_root):
    """Labels and pixels agree, whatever holds them."""
    shards = opened("folder:colours", benchmark_root)
    order = np.argsort(shards.keys)
    folder = opened("folder:kinds", benchmark_root)
    listed = opened("folder:listed", benchmark_root, prompt_files=files(benchmark_root))
    by_number = {
        key.rpartition("/")[2].removesuffix(".png"): i for i, key in enumerate(folder.keys)
    }
    names = sorted(shards.prompts.class_names)
    for place, number in enumerate(order):
        other = by_number[str(place)]
        of_shard = shards.prompts.class_names[shards.truth["label"][number]]
        assert names[folder.truth["label"][other]] == of_shard
        assert listed.truth["label"][place] == shards.truth["label"][number]
        np.testing.assert_array_equal(pixels(shards, number), pixels(folder, other))
        np.testing.assert_array_equal(pixels(shards, number), pixels(listed, place))


def files(root):
    folder = root / "wds_colours"
    return PromptFiles(
        str(folder / "classnames.txt"), str(folder / "zeroshot_classification_templates.txt")
    )


def test_the_kind_of_a_folder_is_what_it_says(benchmark_root):
    tags = opened("folder:tags", benchmark_root)
    assert tags.kind == "multilabel"
    assert tags.truth["target"].shape == (16, 8)
    assert tags.truth["target"].dtype == bool
    pairs = opened("folder:pairs", benchmark_root)
    assert pairs.kind == "retrieval"
    assert len(pairs.texts) == 32
    np.testing.assert_array_equal(pairs.truth["image_of_text"], np.repeat(np.arange(16), 2))


def test_groups_are_columns_of_the_metadata(benchmark_root):
    found = opened("wilds/fmow", benchmark_root)
    assert set(found.truth) == {"label", "group/region", "group/year", "group/y"}
    assert found.group_names["region"][-1] == "Other"
    np.testing.assert_array_equal(found.truth["group/y"], found.truth["label"])


def test_tables(benchmark_root):
    flickr = opened("flickr30k", benchmark_root)
    assert (flickr.kind, len(flickr.items), len(flickr.texts)) == ("retrieval", 8, 16)
    pairs = opened("winoground", benchmark_root)
    assert (int(pairs.truth["images_each"]), int(pairs.truth["texts_each"])) == (2, 2)
    assert len(pairs.items) == len(pairs.texts) == 8
    # Row i holds pictures i and i + 1.
    np.testing.assert_array_equal(pixels(pairs, 1), pixels(pairs, 2))
    np.testing.assert_array_equal(pixels(pairs, 1), pixels(flickr, 1))
    crepe = opened("sugar_crepe/add_att", benchmark_root)
    assert (int(crepe.truth["images_each"]), int(crepe.truth["texts_each"])) == (1, 2)
    np.testing.assert_array_equal(pixels(crepe, 2), pixels(flickr, 2))
    avil = opened("winogavil", benchmark_root)
    assert avil.texts == ["An owl", "A tree"]
    np.testing.assert_array_equal(avil.truth["instance"], [0] * 5 + [1] * 3)
    np.testing.assert_array_equal(avil.truth["right"], [0, 1, 0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(pixels(avil, 5), pixels(flickr, 0))
    german = opened("crossmodal3600/de", benchmark_root)
    assert german.texts == ["eins", "zwei"]
    np.testing.assert_array_equal(pixels(german, 1), pixels(flickr, 1))


def test_a_single_task_may_be_named_by_its_own_folder(benchmark_root):
    root = benchmark_root / "wds_colours"
    assert len(opened("folder:mine", root, only=True).items) == 16
    with pytest.raises(MissingDataError):
        opened("folder:mine", root)


def test_a_slot_in_the_root_is_the_name(benchmark_root):
    root = str(benchmark_root / "wds_{dataset}")
    assert len(opened("folder:colours", root).items) == 16
    assert addresses(benchmark_of("vtab/dtd"), root) == [str(benchmark_root / "wds_vtab-dtd")]


def test_tfds_names():
    assert find(benchmark_of("imagenet1k"), "tfds:", "test").address == (
        "tfds:imagenet2012:validation"
    )
    assert find(benchmark_of("vtab/dtd"), "tfds:", "test").address == "tfds:dtd:test"
    assert find(benchmark_of("vtab/dtd"), "tfds:mine:all", "test").address == "tfds:mine:all"


def test_without_a_root_nothing_is_looked_for():
    with pytest.raises(MissingDataError, match=r"imagenet1k: --data is missing: .* Get it from"):
        opened("imagenet1k", "", only=True)


def test_a_picture_that_a_list_names_and_is_not_there(copy, benchmark_root):
    root = copy("images").parent
    shutil.copy(benchmark_root / "listed.csv", root)
    (root / "images" / "3.png").unlink()
    found = opened("folder:listed", root, prompt_files=files(benchmark_root))
    assert len(found.items) == 16
    with pytest.raises(BadSampleError, match="missing file"):
        pixels(found, 3)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_missing_is_said_with_where_to_get_it(name, tmp_path):
    with pytest.raises(MissingDataError) as caught:
        opened(name, tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{name}: not below --data=")
    assert "https://" in said or "CLIP_benchmark" in said


def test_missing_names_or_templates(copy):
    folder = copy("wds_colours")
    (folder / "classnames.txt").unlink()
    with pytest.raises(MissingDataError, match=r"has no classnames\.txt .*--classnames"):
        opened("folder:colours", folder.parent)
    (folder / "classnames.txt").write_text("a\n")
    (folder / "zeroshot_classification_templates.txt").unlink()
    with pytest.raises(MissingDataError, match=r"has no zeroshot_class.*--templates"):
        opened("folder:colours", folder.parent)


def test_labels_out_of_range(copy):
    folder = copy("wds_colours")
    (folder / "classnames.txt").write_text("red\ngreen\n")
    with pytest.raises(UserError, match=r"label '\d'; expected 0 to 1, since there are 2"):
        opened("folder:colours", folder.parent)


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        ("cls", b"red", "label 'red'; expected 0 to 7"),
        ("cls", b"-1", "label '-1'; expected"),
        ("npy", b"no array", "npy: not an array that can be read"),
    ],
)
def test_damaged_truth_is_named_by_its_key(copy, suffix, content, said):
    name = "wds_colours" if suffix == "cls" else "wds_tags"
    folder = copy(name)
    rewrite(
        folder / "test" / "1.tar",
        lambda path, old: content if path.endswith(suffix) else old,
    )
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        opened(f"folder:{name.removeprefix('wds_')}", folder.parent)
    assert "0000" in str(caught.value)


def test_targets_of_another_number_of_classes(copy):
    folder = copy("wds_tags")
    (folder / "classnames.txt").write_text("red\ngreen\n")
    with pytest.raises(UserError, match=r"shape \(8,\); expected a 0 or 1 for each of the 2"):
        opened("folder:tags", folder.parent)


def test_arrays_with_pickles_are_not_loaded(copy):
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    folder = copy("wds_tags")
    rewrite(
        folder / "test" / "0.tar",
        lambda name, old: out.getvalue() if name.endswith("npy") else old,
    )
    with pytest.raises(UserError, match="not an array that can be read"):
        opened("folder:tags", folder.parent)


def test_captions_that_are_blank(copy):
    folder = copy("wds_pairs")
    rewrite(folder / "test" / "0.tar", lambda n, old: b" \n" if n.endswith("txt") else old)
    with pytest.raises(UserError, match=r"\.txt: holds no caption"):
        opened("folder:pairs", folder.parent)


def test_samples_without_a_label_are_told(copy):
    folder = copy("wds_colours")
    rewrite(
        folder / "test" / "0.tar",
        lambda name, old: None if name.endswith("4.cls") else old,
    )
    found = opened("folder:colours", folder.parent)
    assert len(found.items) < 16
    assert "lack an image or .cls and are not scored" in found.notes[0]


def test_a_shard_that_was_cut_is_told(copy):
    folder = copy("wds_colours")
    shard = folder / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    found = opened("folder:colours", folder.parent)
    assert len(found.items) < 16
    assert "damaged shards: 1;" in found.notes[-1]
    assert f"{shard}: " in found.notes[-1]


def test_folders_need_as_many_names(copy):
    """Labels count the folders: with one away, those behind it would get wrong names."""
    folder = copy("kinds")
    names = sorted(one.name for one in (folder / "test").iterdir())
    (folder / "classnames.txt").write_text("\n".join(names))
    assert opened("folder:kinds", folder.parent).prompts.class_names == names
    shutil.rmtree(folder / "test" / names[1])
    with pytest.raises(UserError, match=rf"{len(names) - 1} folders and {len(names)} class names"):
        opened("folder:kinds", folder.parent)


def test_another_split_is_never_the_pictures_of_test(copy, benchmark_root):
    with pytest.raises(MissingDataError, match=r"listed\.csv has no splits"):
        opened("folder:listed", benchmark_root, split="train", prompt_files=files(benchmark_root))
    folder = copy("kinds")
    with pytest.raises(MissingDataError, match="has no split 'train'; found test"):
        opened("folder:kinds", folder.parent, split="train")
    (folder / "test").rename(folder / "train")
    with pytest.raises(MissingDataError, match="has no split 'test'; found train"):
        opened("folder:kinds", folder.parent)
    assert len(opened("folder:kinds", folder.parent, split="train").items) == 16
    flat = folder.parent / "flat"
    (folder / "train").rename(flat)
    shutil.copy(folder / "zeroshot_classification_templates.txt", flat)
    assert len(opened("folder:flat", folder.parent).items) == 16
    with pytest.raises(MissingDataError, match="flat has no splits"):
        opened("folder:flat", folder.parent, split="train")
    with pytest.raises(MissingDataError, match="there is test"):
        opened("quick/digits", "", split="train")


def test_a_folder_of_data_sets_is_no_folder_a_class(benchmark_root):
    with pytest.raises(MissingDataError, match="Get it from https://"):
        opened("imagenet1k", benchmark_root, only=True)


@pytest.mark.parametrize("text", ["", "two", "0", "-1"])
def test_a_wrong_number_of_shards(copy, text):
    folder = copy("wds_colours")
    (folder / "test" / "nshards.txt").write_text(text)
    with pytest.raises(UserError, match="expected the number of shards"):
        opened("folder:colours", folder.parent)


def test_shards_that_were_not_downloaded(copy):
    folder = copy("wds_colours")
    (folder / "test" / "1.tar").unlink()
    with pytest.raises(UserError, match=r"1\.tar: no such file; nshards\.txt counts 2 shards"):
        opened("folder:colours", folder.parent)


def test_an_unknown_kind(copy):
    folder = copy("wds_colours")
    (folder / "dataset_type.txt").write_text("segmentation")
    with pytest.raises(UserError, match="holds 'segmentation'; expected one of classification"):
        opened("folder:colours", folder.parent)


def test_a_picture_that_does_not_decode_is_remembered(copy):
    folder = copy("wds_colours")
    rewrite(folder / "test" / "0.tar", lambda n, old: old[:60] if n.endswith("png") else old)
    found = opened("folder:colours", folder.parent)
    with pytest.raises(BadSampleError):
        pixels(found, 3)
    assert list(found.items.bad) == [3]
    pixels(found, 15)


def test_the_hash_follows_truth_and_keys(copy, benchmark_root):
    first = opened("folder:colours", benchmark_root).sha256()
    folder = copy("wds_colours")
    assert opened("folder:colours", folder.parent).sha256() == first
    rewrite(folder / "test" / "0.tar", lambda n, old: b"7" if n.endswith("cls") else old)
    assert opened("folder:colours", folder.parent).sha256() != first


def test_a_table_without_a_column(benchmark_root, tmp_path):
    shutil.copytree(benchmark_root / "flickr30k", tmp_path / "winoground")
    with pytest.raises(UserError, match="has no column 'image_0'; found image, caption"):
        opened("winoground", tmp_path)


def test_tables_that_cannot_be_read(tmp_path):
    (tmp_path / "winogavil").mkdir()
    (tmp_path / "winogavil" / "test.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match="not a Parquet file that can be read"):
        opened("winogavil", tmp_path)
    (tmp_path / "sugar_crepe").mkdir()
    (tmp_path / "sugar_crepe" / "add_obj.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="not a JSON table"):
        opened("sugar_crepe/add_obj", tmp_path)


def test_classification_has_no_table(benchmark_root, tmp_path):
    shutil.copytree(benchmark_root / "flickr30k", tmp_path / "mnist")
    with pytest.raises(UserError, match="classification is read from shards"):
        opened("mnist", tmp_path)


def test_pictures_are_decoded_as_others_decode_them(tmp_path, make_tar):
    """No EXIF rotation, no white behind what is transparent: as PIL's convert('RGB')."""
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (9, 12, 4), np.uint8), "RGBA")
    png = io.BytesIO()
    image.save(png, "PNG")
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert("RGB").save(turned, "JPEG", exif=exif, quality=95)
    grey = io.BytesIO()
    image.convert("L").save(grey, "PNG")
    samples = {
        "a": {"png": png.getvalue(), "cls": b"0"},
        "b": {"jpg": turned.getvalue(), "cls": b"0"},
        "c": {"png": grey.getvalue(), "cls": b"0"},
    }
    folder = tmp_path / "wds_x"
    (folder / "test").mkdir(parents=True)
    make_tar(folder / "test" / "0.tar", samples)
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "classnames.txt").write_text("one")
    (folder / "zeroshot_classification_templates.txt").write_text("{c}")
    found = opened("folder:x", tmp_path)
    for index, file in enumerate((png, turned, grey)):
        expected = np.zeros((8, 8, 3), np.uint8)
        TRANSFORM(np.asarray(Image.open(file).convert("RGB")), expected)
        np.testing.assert_array_equal(pixels(found, index), expected)


def test_a_benchmark_of_the_user_is_any_folder():
    assert benchmark_of("folder:a/b") == Benchmark(name="a/b", title="a/b", kind=None)
