"""Batches, padding and meshes never show in the embeddings."""

import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.config import MeshConfig, UserError
from clipjax.core.mesh import make_mesh
from clipjax.core.partition import tree_shardings
from clipjax.data.decode import BadSampleError
from clipjax.inference import encoder as encoder_module
from clipjax.inference.encoder import Encoder
from clipjax.models import init_params, param_axes, with_params


class Arrays:
    """Pictures in memory; number `bad` cannot be read, those of `broken` do not decode."""

    def __init__(self, pixels, bad=None, broken=()):
        self.pixels, self.bad, self.broken = pixels, bad, broken
        self.asked = []

    def __len__(self):
        return len(self.pixels)

    def fill(self, index, out):
        if index == self.bad:
            raise ValueError(f"picture {index} cannot be read")
        self.asked.append(index)
        if index in self.broken:
            out[: len(out) // 2] = 200
            raise BadSampleError("damaged", "half of it is missing")
        out[...] = self.pixels[index]


class Named(Arrays):
    def key(self, index):
        return f"some.tar: {index:03d}"


class Kept:
    """Rows in a list."""

    def __init__(self, array, most=10**9):
        self.parts, self.most = [array] if len(array) else [], most

    @property
    def done(self):
        return sum(map(len, self.parts))

    @property
    def array(self):
        return np.concatenate(self.parts) if self.parts else np.zeros((0, 16), np.float32)

    def append(self, embeds):
        if self.done >= self.most:
            raise OSError("the disk is full")
        self.parts.append(embeds.copy())


class Letters:
    """A tokenizer: one id a letter, padded with zeros, the last id at the end."""

    context_length, vocab_size = 16, 300

    def __call__(self, text):
        ids = [ord(letter) for letter in text][:15] + [299]
        return np.array(ids + [0] * (16 - len(ids)), np.int32)

    def to_json(self):
        return {}

    def digest(self):
        return ""


class Letters40(Letters):
    context_length = 40

    def __call__(self, text):
        ids = [ord(letter) for letter in text][:39] + [299]
        return np.array(ids + [0] * (40 - len(ids)), np.int32)


TEXTS = ("a", "red square", "", "b", "blue", "an orange square at the top left", "c")


@pytest.fixture(scope="module")
def params(tiny_config):
    return jax.jit(init_params, static_argnums=(0, 1))(tiny_config.model, 0)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(tiny_config, params, pixels):
    """(images, texts) embedded by the bare module in one go."""

    def encode(params, images, tokens):
        model = with_params(tiny_config.model, params)
        return model.encode_image(images), model.encode_text(tokens)

    tokens = jnp.asarray(np.stack([Letters()(text) for text in TEXTS]))
    return [np.asarray(x) for x in jax.jit(encode)(params, pixels, tokens)]


def make(tiny_config, mesh, **options):
    return Encoder(tiny_config.model, Letters(), mesh, **options)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
def test_the_batch_size_does_not_matter(batch_size, tiny_config, params, pixels, expected):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=batch_size)
    images, texts = encoder.images(params, Arrays(pixels)), encoder.texts(params, TEXTS)
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(images, expected[0], atol=2e-6)
    np.testing.assert_allclose(texts, expected[1], atol=2e-6)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=["811", "222"])
def test_the_mesh_does_not_matter(sizes, tiny_config, params, pixels, expected):
    """Three items a batch are rounded up to what the mesh divides; parameters may be split."""
    data, fsdp, tensor = sizes
    mesh = make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    split = jax.device_put(params, tree_shardings(params, param_axes(tiny_config.model), mesh))
    encode = make(tiny_config, mesh, batch_size=3).bind(split)
    np.testing.assert_allclose(encode.images(Arrays(pixels)), expected[0], atol=1e-5)
    np.testing.assert_allclose(encode.texts(TEXTS), expected[1], atol=1e-5)


def test_any_number_of_items_is_one_program_of_images_and_one_a_length(tiny_config, params, pixels):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=4)
    for count in (0, 1, 4, 11):
        assert encoder.images(params, Arrays(pixels[:count])).shape == (count, 16)
        assert encoder.texts(params, TEXTS[:count]).shape == (min(count, len(TEXTS)), 16)
    assert encoder._encode_image._cache_size() == 1
    assert encoder._encode_text._cache_size() == len(encoder._compiled_lengths) <= 2


@pytest.mark.parametrize("bad", [0, 10])
def test_an_error_of_a_picture_reaches_the_caller_and_leaves_no_thread(
    bad, tiny_config, params, pixels
):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=4)
    encoder.images(params, Arrays(pixels))
    before = threading.active_count()
    with pytest.raises(ValueError, match=f"picture {bad} cannot be read"):
        encoder.images(params, Arrays(pixels, bad))
    assert threading.active_count() <= before


def test_each_call_uses_the_parameters_it_is_given(tiny_config, params, pixels, expected):
    encoder = make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=16)
    other = jax.jit(init_params, static_argnums=(0, 1))(tiny_config.model, 1)
    assert np.abs(encoder.images(other, Arrays(pixels)) - expected[0]).max() > 0.01
    np.testing.assert_allclose(encoder.images(params, Arrays(pixels)), expected[0], atol=2e-6)


@pytest.fixture
def encoder(tiny_config):
    return make(tiny_config, make_mesh(MeshConfig(), 1), batch_size=4)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_picture_that_does_not_decode_is_a_row_of_zeros(
    devices, tiny_config, params, pixels, expected
):
    encoder = make(tiny_config, make_mesh(MeshConfig(fsdp=1), devices), batch_size=4)
    broken = (0, 5, 10)
    found = encoder.images(params, Arrays(pixels, broken=broken))
    assert not found[list(broken)].any()
    others = [i for i in range(11) if i not in broken]
    np.testing.assert_allclose(found[others], expected[0][others], atol=2e-6)


def test_a_batch_of_bad_pictures_leaves_no_trace_in_the_next(encoder, params, pixels, expected):
    found = encoder.images(params, Arrays(pixels, broken=range(4)))
    assert not found[:4].any()
    np.testing.assert_allclose(found[4:], expected[0][4:], atol=2e-6)


def test_a_mistake_of_a_person_in_a_picture_still_ends_everything(encoder, params, pixels):
    class Strict(Arrays):
        def fill(self, index, out):
            try:
                super().fill(index, out)
            except BadSampleError as error:
                raise UserError(f"picture {index}: {error}") from error

    with pytest.raises(UserError, match="picture 7: damaged"):
        encoder.images(params, Strict(pixels, broken=(7,)))


class Lazy:
    """Texts of which one cannot be read."""

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        if index == self.bad:
            raise BadSampleError("no caption", "there is none")
        return TEXTS[index]


@pytest.mark.parametrize("bad", [0, 6])
def test_a_text_that_cannot_be_read_is_a_row_of_zeros(bad, encoder, params, expected):
    found = encoder.texts(params, Lazy(bad))
    assert not found[bad].any()
    others = [i for i in range(len(TEXTS)) if i != bad]
    np.testing.assert_allclose(found[others], expected[1][others], atol=2e-6)


@pytest.mark.parametrize("done", [0, 4, 5, 8, 11])
def test_rows_that_are_there_are_not_computed_again(done, encoder, params, pixels, expected):
    """They are taken as they are: here they are wrong."""
    images, kept = Arrays(pixels), Kept(np.full((done, 16), 7, np.float32))
    found = encoder.images(params, images, kept)
    assert sorted(images.asked) == list(range(done, 11))
    assert (found[:done] == 7).all()
    np.testing.assert_allclose(found[done:], expected[0][done:], atol=2e-6)
    assert [len(part) for part in kept.parts if part[0, 0] != 7] == [4] * ((11 - done) // 4) + [
        (11 - done) % 4
    ] * bool((11 - done) % 4)


def test_work_that_was_stopped_goes_on_to_the_same_bits(encoder, params, pixels):
    whole, kept = encoder.images(params, Arrays(pixels)), Kept(np.zeros((0, 16), np.float32), 8)
    before = threading.active_count()
    with pytest.raises(OSError, match="disk is full"):
        encoder.images(params, Arrays(pixels), kept)
    assert kept.done == 8
    assert threading.active_count() <= before
    kept.most = 100
    np.testing.assert_array_equal(encoder.images(params, Arrays(pixels), kept), whole)


def test_rows_of_texts_go_on_too(monkeypatch, encoder, params, expected):
    monkeypatch.setattr(encoder_module, "_BATCHES_AMONG_WHICH_TEXTS_ARE_SORTED", 1)
    kept = Kept(expected[1][:4])
    np.testing.assert_allclose(encoder.texts(params, TEXTS, kept), expected[1], atol=2e-6)
    assert list(map(len, kept.parts)) == [4, 3]


def test_what_is_written_is_what_would_be_returned(encoder, params, pixels, expected):
    images, texts = (Kept(np.zeros((0, 16), np.float32)) for _ in range(2))
    encoder.write_images(params, Arrays(pixels), images)
    encoder.write_texts(params, TEXTS, texts)
    np.testing.assert_allclose(images.array, expected[0], atol=2e-6)
    np.testing.assert_allclose(texts.array, expected[1], atol=2e-6)
    encoder.write_images(params, Arrays(pixels), None)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value, tiny_config, encoder, params, pixels):
    embedding = params["text/embedding"].at[ord("b")].set(value)
    with pytest.raises(UserError, match=r"text 3 \('b'\): its embedding holds NaN .*weights"):
        encoder.texts({**params, "text/embedding": embedding}, TEXTS)
    name = next(name for name in params if name.startswith("image/") and name.endswith("kernel"))
    broken = {**params, name: params[name] * value}
    with pytest.raises(UserError, match=r"image 2: its embedding holds NaN"):
        encoder.images(broken, Arrays(pixels, broken=(0, 1)))
    with pytest.raises(UserError, match=r"image 0 \(some.tar: 000\): its"):
        encoder.images(broken, Named(pixels))


LONG = [*TEXTS, *("x" * n for n in range(40)), *("red", "blue", "x" * 20) * 40]


def test_short_texts_are_cut_and_have_the_features_of_whole_ones(tiny_config, params):
    model = dataclasses.replace(
        tiny_config.model, text=dataclasses.replace(tiny_config.model.text, context_length=40)
    )
    rng = np.random.default_rng(0)
    positions = rng.standard_normal((40, 32)).astype(np.float32)
    params = {**params, "text/positions": jnp.asarray(positions)}
    mesh = make_mesh(MeshConfig(), 1)
    cut, whole = (Encoder(model, Letters40(), mesh, batch_size=4) for _ in range(2))
    whole.compile(params)
    np.testing.assert_allclose(cut.texts(params, LONG), whole.texts(params, LONG), atol=1e-5)
    assert sorted(cut._compiled_lengths) == [8, 24, 40]
    assert cut._encode_text._cache_size() == 3
    assert whole._compiled_lengths == {40}


def test_padding_that_is_seen_is_not_cut(tiny_config, params, expected):
    text = dataclasses.replace(tiny_config.model.text, causal=False, pool="last")
    config = dataclasses.replace(tiny_config.model, text=text)
    encoder = Encoder(config, Letters(), make_mesh(MeshConfig(), 1), batch_size=4)
    encoder.texts(params, TEXTS)
    assert encoder._compiled_lengths == {16}


def test_nothing_is_compiled_after_it_was_done_ahead(encoder, params, pixels, expected):
    encoder.compile(params)
    assert not hasattr(encoder._encode_text, "_cache_size")  # a program, which takes one shape
    np.testing.assert_allclose(encoder.texts(params, TEXTS), expected[1], atol=2e-6)
    np.testing.assert_allclose(encoder.images(params, Arrays(pixels)), expected[0], atol=2e-6)


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_texts_in_fewer_bits_beside_images_in_all_of_them(
    dtype, most, tiny_config, params, pixels, expected
):
    mesh = make_mesh(MeshConfig(), 1)
    encoder = make(tiny_config, mesh, batch_size=11, text_dtype=dtype)
    whole = make(tiny_config, mesh, batch_size=11)
    np.testing.assert_array_equal(
        encoder.images(params, Arrays(pixels)), whole.images(params, Arrays(pixels))
    )
    texts = encoder.texts(params, TEXTS)
    assert texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    assert 1e-5 < np.abs(texts - expected[1]).max() < most
    images = make(tiny_config, mesh, batch_size=11, image_dtype=dtype).images(
        params, Arrays(pixels)
    )
    assert 1e-5 < np.abs(images - expected[0]).max() < most


def test_long_work_tells_how_far_it_is_and_short_work_does_not(
    monkeypatch, capsys, encoder, params, pixels
):
    encoder.images(params, Arrays(pixels), progress="embedding")
    assert not capsys.readouterr().err
    monkeypatch.setattr(encoder_module, "_QUIET_SECONDS", 0.0)
    encoder.images(params, Arrays(pixels), progress="embedding")
    assert "embedding: 11/11 images" in capsys.readouterr().err
    encoder.texts(params, TEXTS, progress="prompts")
    assert "prompts: 7/7 texts" in capsys.readouterr().err
    encoder.texts(params, TEXTS)
    assert not capsys.readouterr().err
