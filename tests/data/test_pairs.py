import io
import json

import numpy as np
import pytest
from PIL import Image

from clipjax.config import DataConfig, UserError, ViTConfig
from clipjax.data.captions import caption_members
from clipjax.data.opening import Sources
from clipjax.data.order import shuffled
from clipjax.data.pairs import TrainingPairs
from clipjax.data.pipeline import Batches
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.tokenizers import ByteTokenizer

SIZE = 8


def picture(i, height=32, width=40):
    out = io.BytesIO()
    pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def sample(i):
    text = f"number {i}"
    captions = {"name": text, "captions": [f"{text}{mark}" for mark in "abc"], "none": []}
    return {
        "png": picture(i),
        "txt": text.encode(),
        "json": json.dumps(captions).encode(),
    }


BAD = {
    3: {"png": b"<html>gone</html>"},
    7: {"txt": b" \n"},
    11: {"txt": b"\xff\xfe"},
    12: {"png": picture(0, 60, 60)},
    20: {"png": b""},
}
REASONS = {"not an image": 1, "empty": 1, "no caption": 2, "too large": 1}


@pytest.fixture(scope="module")
def good_shards(make_tar, tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    samples = {f"{i:04d}": sample(i) for i in range(60)}
    keys = list(samples)
    return [
        str(make_tar(folder / f"{s}.tar", {k: samples[k] for k in keys[30 * s : 30 * s + 30]}))
        for s in range(2)
    ]


@pytest.fixture(scope="module")
def bad_shard(make_tar, tmp_path_factory):
    samples = {f"{i:04d}": {**sample(i), **BAD.get(i, {})} for i in range(24)}
    return str(make_tar(tmp_path_factory.mktemp("bad") / "bad.tar", samples))


def make_pairs(paths, batch_size=8, seed=0, **fields):
    config = DataConfig(max_image_pixels=2000, shuffle_seed=seed, **fields)
    source = Sources({"": TarShards(paths, needs=caption_members(config.caption))})
    order = shuffled(num_examples=len(source), global_batch_size=batch_size, seed=seed)
    tokenizer = ByteTokenizer(context_length=24, lowercase=True)
    return TrainingPairs(
        source, order, tokenizer, config, image=ViTConfig(image_size=SIZE, patch_size=SIZE)
    )


def fill(pairs, number):
    row = {name: np.zeros(shape, dtype) for name, (shape, dtype) in pairs.row_spec.items()}
    pairs(number, row)
    return row


def fill_all(pairs):
    """An epoch of the shard with the bad samples."""
    for number in range(24):
        fill(pairs, number)


def text_of(row):
    ids = row["tokens"].tolist()
    return bytes(ids[1 : ids.index(257)]).decode()


def test_an_epoch_shows_every_caption_once(good_shards):
    pairs = make_pairs(good_shards)
    for epoch in range(2):
        seen = [text_of(fill(pairs, p)) for p in range(60 * epoch, 60 * epoch + 60)]
        assert sorted(seen) == sorted(f"number {i}" for i in range(60))
    assert pairs.bad_samples.total == 0
    assert pairs.bad_samples.seen == 120


def test_a_row_is_a_function_of_seed_and_sample_number(good_shards):
    first, again = make_pairs(good_shards), make_pairs(good_shards)
    forward = [fill(first, p) for p in range(90)]
    backward = [fill(again, p) for p in reversed(range(90))][::-1]
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one["images"], other["images"])
        np.testing.assert_array_equal(one["tokens"], other["tokens"])
    reseeded = [text_of(fill(make_pairs(good_shards, seed=1), p)) for p in range(20)]
    assert reseeded != [text_of(row) for row in forward[:20]]


def test_the_picture_belongs_to_the_caption(good_shards):
    """The whole picture, 40 x 32, shrunk to 8 x 8 by exact averages over areas."""
    pairs = make_pairs(good_shards, crop_scale=(1.0, 1.0), crop_ratio=(1.25, 1.25))
    for p in range(30):
        row = fill(pairs, p)
        number = int(text_of(row).split()[1])
        decoded = np.asarray(Image.open(io.BytesIO(picture(number))), np.float64)
        means = decoded.reshape(SIZE, 4, SIZE, 5, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(row["images"], means, atol=0.51)


def test_the_crop_of_a_sample_changes_from_epoch_to_epoch(good_shards):
    pairs = make_pairs(good_shards, crop_scale=(0.2, 0.6))
    first = {text_of(r): r["images"] for r in (fill(pairs, p) for p in range(60))}
    second = {text_of(r): r["images"] for r in (fill(pairs, p) for p in range(60, 120))}
    assert sum((first[text] != second[text]).any() for text in first) > 50


def whole_batches(paths, *, threads, parts, steps=9, **fields):
    """Global batches put together from `parts` interleaved splits of the rows, and the counts."""
    size, counts = 8, []
    out = [{} for _ in range(steps)]
    for part in range(parts):
        pairs = make_pairs(paths, size, **fields)
        rows = np.arange(part, size, parts)
        loader = Batches(
            lambda step, pairs=pairs, rows=rows: pairs._order.samples(step, rows),
            pairs.plan,
            pairs.row_spec,
            threads=threads,
            ahead=0,
        )
        try:
            for step in range(steps):
                for name, array in next(loader).items():
                    whole = out[step].setdefault(
                        name, np.zeros((size, *array.shape[1:]), array.dtype)
                    )
                    whole[rows] = array
        finally:
            loader.close()
        counts.append(pairs.bad_samples.by_reason)
    return out, sum(counts, type(counts[0])())


def test_bad_samples_are_replaced_alike_for_any_number_of_threads_and_any_split(bad_shard):
    expected, counts = whole_batches([bad_shard], threads=1, parts=1, max_bad_share=1.0)
    assert counts.keys() == REASONS.keys()
    for threads, parts in ((3, 1), (1, 2), (2, 4), (1, 8)):
        got, again = whole_batches([bad_shard], threads=threads, parts=parts, max_bad_share=1.0)
        assert again == counts
        for one, other in zip(got, expected, strict=True):
            for name in ("images", "tokens"):
                np.testing.assert_array_equal(one[name], other[name])


def test_what_replaces_a_bad_sample_is_a_good_one(bad_shard):
    pairs = make_pairs([bad_shard], max_bad_share=1.0)
    seen = [text_of(fill(pairs, p)) for p in range(24)]
    good = {f"number {i}" for i in range(24)} - {f"number {i}" for i in BAD}
    assert set(seen) == good
    assert len(seen) == 24


def test_bad_samples_are_counted_by_reason(bad_shard):
    """One epoch meets each of the five at least once; a replacement may be bad too."""
    pairs = make_pairs([bad_shard], max_bad_share=1.0)
    fill_all(pairs)
    counts = pairs.bad_samples.by_reason
    assert all(counts[name] >= least for name, least in REASONS.items())
    assert pairs.bad_samples.total == counts.total()
    assert pairs.bad_samples.seen == 24 + counts.total()


def test_the_first_bad_sample_is_named_and_the_others_are_counted(bad_shard, capsys):
    pairs = make_pairs([bad_shard], max_bad_share=1.0)
    for p in range(40):
        fill(pairs, p)
    assert pairs.bad_samples.total > 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert ".tar: " in line
    assert "data/bad_samples" in line


def test_too_many_bad_samples_stop_the_run_and_name_shard_and_key(bad_shard):
    """A share of 0.003 allows three among the first thousand; the fourth is one too many."""
    pairs = make_pairs([bad_shard], max_bad_share=0.003)
    with pytest.raises(UserError) as caught:
        fill_all(pairs)
    message = str(caught.value)
    assert message.startswith(f"{bad_shard}: 00")
    assert int(message.split(": ")[1]) in BAD
    assert f"4 of {pairs.bad_samples.seen} samples could not be used" in message
    assert "data.max_bad_share=0.003" in message
    assert all(f"{n} {reason}" in message for reason, n in pairs.bad_samples.by_reason.items())


def test_one_bad_sample_stops_a_run_that_allows_none(bad_shard):
    pairs = make_pairs([bad_shard], max_bad_share=0.0)
    with pytest.raises(UserError, match=r"data\.max_bad_share=0\b"):
        fill_all(pairs)
    assert pairs.bad_samples.total == 1


def test_a_few_bad_samples_in_the_beginning_do_not_stop_a_run(bad_shard):
    """At the default of 1 % a thousand samples may hold ten, however early they come."""
    pairs = make_pairs([bad_shard])
    fill_all(pairs)
    assert 5 <= pairs.bad_samples.total <= 10


def test_shards_without_one_good_sample_end_with_a_message(make_tar, tmp_path):
    path = str(make_tar(tmp_path / "x.tar", {"a": {"png": b"", "txt": b"text"}}))
    with pytest.raises(UserError, match=r"x\.tar: a: 20 samples in a row could not be used"):
        fill(make_pairs([path], max_bad_share=1.0), 0)


def test_every_caption_of_a_list_is_drawn_about_equally_often_and_the_same_again(good_shards):
    """3,000 draws over three captions: chi-squared with two degrees of freedom below 25."""
    pairs = make_pairs(good_shards, caption="json.captions")
    drawn = [pairs.caption(p, 4) for p in range(3000)]
    counts = np.unique(drawn, return_counts=True)
    assert counts[0].tolist() == ["number 4a", "number 4b", "number 4c"]
    assert ((counts[1] - 1000) ** 2 / 1000).sum() < 25
    again = make_pairs(good_shards, caption="json.captions")
    assert [again.caption(p, 4) for p in reversed(range(3000))][::-1] == drawn


def test_shuffled_captions_are_a_fixed_pairing_with_other_pictures(good_shards):
    """A permutation of which a few points may stay: one of 60 is expected."""
    pairs = make_pairs(good_shards, shuffled_captions=True)
    paired = [pairs.caption(0, example) for example in range(60)]
    assert sorted(paired) == sorted(f"number {i}" for i in range(60))
    assert sum(text == f"number {i}" for i, text in enumerate(paired)) <= 5
    for number, seed in ((17, 0), (99, 0), (0, 4)):
        other = make_pairs(good_shards, shuffled_captions=True, seed=seed)
        assert [other.caption(number, example) for example in range(60)] == paired


def test_shuffled_captions_reach_the_batch(good_shards):
    plain, shuffled = make_pairs(good_shards), make_pairs(good_shards, shuffled_captions=True)
    differing = 0
    for p in range(60):
        one, other = fill(plain, p), fill(shuffled, p)
        np.testing.assert_array_equal(one["images"], other["images"])
        differing += text_of(one) != text_of(other)
    assert differing >= 55


def test_equal_image_files_get_equal_hashes_and_others_do_not(make_tar, tmp_path):
    samples = {f"{i:04d}": {**sample(i), "png": picture(i % 5)} for i in range(20)}
    pairs = make_pairs([str(make_tar(tmp_path / "x.tar", samples))], equal_images=True)
    rows = [fill(pairs, number) for number in range(20)]
    groups = {}
    for row in rows:
        number = int(text_of(row).split()[1])
        groups.setdefault(int(row["image_hashes"]), set()).add(number % 5)
    assert len(groups) == 5
    assert all(len(pictures) == 1 for pictures in groups.values())
