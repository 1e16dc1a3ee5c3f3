import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipjax.config.errors import UserError
from clipjax.data.decode import BadSampleError
from clipjax.data.sources.tar_shards import TarShards
from clipjax.data.stats import evenly_spread, measure, measure_sample, summary


def encoded(size, kind="png"):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind)
    return buffer.getvalue()


def sample(size=(30, 20), text="two words", **fields):
    return {
        "image": encoded(size),
        "txt": text.encode(),
        "json": json.dumps(fields).encode(),
    }


def test_the_quantities_of_one_sample():
    one = sample(text="é two", similarity=0.25, LANGUAGE="de", other=3, watermark_ok=True)
    assert measure_sample(one, "txt") == {
        "format": "png",
        "width": 30,
        "height": 20,
        "aspect": 1.5,
        "megapixels": 0.0006,
        "file bytes": len(one["image"]),
        "bits per pixel": 8 * len(one["image"]) / 600,
        "caption characters": 5,
        "caption words": 2,
        "caption bytes": 6,
        "json similarity": 0.25,
        "language": "de",
    }


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{broken", b"[" * 100_000, b'{"score": NaN}', b'{"score": 1e999}', b"\xff"]
    + [b'{"score": 1' + b"0" * 400 + b"}", b'{"score": "high"}', b'{"language": 7}'],
)
def test_a_json_without_figures_is_no_obstacle(content):
    found = measure_sample({**sample(), "json": content}, "txt")
    assert len(found) == 10


def test_what_cannot_be_used_is_a_bad_sample():
    with pytest.raises(BadSampleError, match="no caption"):
        measure_sample(sample(text=" "), "txt")
    with pytest.raises(BadSampleError, match="damaged"):
        measure_sample({**sample(), "image": b"GIF89a"}, "txt")


@given(st.integers(1, 10**7), st.integers(1, 500))
def test_samples_are_evenly_spread(count, wanted):
    found = evenly_spread(count, wanted)
    assert len(found) == len(set(found)) == min(count, wanted)
    assert found[0] == 0
    assert found[-1] == (count - 1 if min(count, wanted) > 1 else 0)
    steps = np.diff(found)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_quantiles_are_those_of_numpy():
    values = np.random.default_rng(0).normal(size=1001)
    found = summary(values)
    assert (found["count"], found["min"], found["max"]) == (1001, values.min(), values.max())
    assert found["p50"] == np.median(values)
    assert found["p95"] == np.percentile(values, 95)
    assert found["mean"] == pytest.approx(values.mean())


@pytest.fixture
def source(tmp_path, make_tar):
    samples = {}
    for i in range(20):
        fields = {f"score{k}": i for k in range(9)} if i < 10 else {"score8": i}
        files = sample(
            (10 + i, 10), f"caption {i % 5}", language=("en", "fr")[i % 4 == 0], **fields
        )
        samples[str(i)] = {"png": files["image"], "txt": files["txt"], "json": files["json"]}
    samples["bad"] = {"png": b"no image", "txt": b"x", "json": b"{}"}
    shards = TarShards([str(make_tar(tmp_path / "a.tar", samples))], needs=("txt", "json"))
    yield shards
    shards.close()


def test_a_source_is_measured(source):
    found = measure(source, threads=3)
    assert (found.seen, found.distinct_captions, found.bad) == (21, 5, {"damaged": 1})
    assert found.numbers["width"].tolist() == list(range(10, 30))
    assert found.names == {"format": {"png": 20}, "language": {"en": 15, "fr": 5}}
    scores = [name for name in found.numbers if name.startswith("json ")]
    assert len(scores) == 6  # the others are left out
    assert len(found.numbers["json score8"]) == 20
    figures = json.loads(json.dumps(found.figures()))
    assert figures["distributions"]["width"]["p50"] == 19.5
    assert figures["format"] == {"png": 20}


def test_a_part_of_a_source_is_measured(source):
    found = measure(source, samples=3, threads=1)
    assert found.seen == 3
    assert found.numbers["width"].tolist() == [10, 20]  # the third is the bad one


def test_no_usable_sample_is_an_error(tmp_path, make_tar):
    path = str(make_tar(tmp_path / "a.tar", {"a": {"jpg": b"x", "txt": b"x"}}))
    source = TarShards([path])
    with pytest.raises(UserError, match=f"no sample of 1 can be used: {path}: a: damaged"):
        measure(source)
    source.close()
