"""Heads and neurons of a whole model, over stimuli in several facets, from library and command."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax.cli.main import main
from clipjax.config import DualEncoderConfig, MeshConfig, TextConfig, UserError, ViTConfig
from clipjax.core.mesh import make_mesh
from clipjax.data.concepts import Concept
from clipjax.inference.encoder import Encoder
from clipjax.inference.load import Model
from clipjax.interpret.dissect import given_similarity, wpmi_names
from clipjax.interpret.facet_pictures import FacetPictures, image_facets
from clipjax.interpret.facet_samples import mean_of_views
from clipjax.interpret.facets import Facet, FacetRows
from clipjax.interpret.head_effects import direct_effects
from clipjax.interpret.head_texts import head_spans, last_layers
from clipjax.interpret.moments import Moments
from clipjax.interpret.neuron_texts import neuron_texts
from clipjax.interpret.scan_files import ScanRecord, write_scan
from clipjax.interpret.second_order import SecondOrder
from clipjax.interpret.summaries import summarise
from clipjax.interpret.vit_parts import in_plain_form, take_apart
from clipjax.models import param_shapes, with_params

SIDE, WORDS = 16, ["cat", "dog", "sun", "car", "hat", "key", "cup", "bell", "fish", "tree"]
CONFIG = DualEncoderConfig(
    image=ViTConfig(image_size=SIDE, patch_size=8, width=16, depth=2, num_heads=2, mlp_dim=24),
    text=TextConfig(width=16, depth=1, num_heads=2, mlp_dim=16, context_length=8, vocab_size=128),
    embed_dim=10,
)


class Pixels:
    """A facet in memory."""

    def __init__(self, name, views, seed, tower="image", control=False):
        count = len(views)
        self.owner = np.repeat(np.arange(count), views)
        rng = np.random.default_rng(seed)
        self.pixels = rng.integers(0, 256, (len(self.owner), SIDE, SIDE, 3), np.uint8)
        self.rows = FacetRows(
            name=name,
            tower=tower,
            is_control=control,
            stimuli=tuple(f"s{i}" for i in range(count)),
            samples=len(self.owner),
            texts=("",) * count,
            labels=np.zeros((count, len(WORDS)), bool),
            confounds=np.zeros((count, 0)),
        )

    def fill(self, sample, out):
        out[...] = self.pixels[sample]

    def text(self, sample):
        raise AssertionError("not of the text tower")

    def picture(self, row):
        return None


FACETS = {
    "photo": Pixels("photo", [1] * 20, 0),
    "caption": Pixels("caption", [1] * 20, 1, tower="text"),
    "word": Pixels("word", [3, 1, 2, 1, 1], 2),
    "scrambled": Pixels("scrambled", [1] * 5, 3, control=True),
}
IMAGES = np.concatenate([FACETS["photo"].pixels, FACETS["word"].pixels])


class Spelling:
    """A tokenizer of letters."""

    context_length, vocab_size = 8, 128

    def __call__(self, text):
        ids = np.zeros(8, np.int32)
        spelt = [1 + ord(letter) % 100 for letter in text[:6]]
        ids[: len(spelt)], ids[len(spelt)] = spelt, 127
        return ids

    def to_json(self):
        return {}

    def digest(self):
        return ""


@pytest.fixture(scope="module")
def model():
    rng, params = np.random.default_rng(0), {}
    for name, shape in sorted(param_shapes(CONFIG).items()):
        numbers = rng.normal(size=shape) * (0.2 if name.endswith("kernel") else 0.3)
        params[name] = jnp.asarray(numbers + name.endswith("/scale"), jnp.float32)
    mesh, spelling = make_mesh(MeshConfig(fsdp=1), num_devices=1), Spelling()
    return Model(CONFIG, params, spelling, Encoder(CONFIG, spelling, mesh, batch_size=16), 7, "abc")


@pytest.fixture(scope="module")
def effects(model):
    """Direct effects of all heads on embeddings of unit length, [images, layers, heads, embed]."""
    plain, params = in_plain_form(model.config, model.params)

    def run(params, images):
        whole = with_params(plain, params)
        found = direct_effects(whole.image, take_apart(whole, images))
        return found.heads, found.embeds

    heads, embeds = (np.asarray(x, np.float64) for x in jax.jit(run)(params, IMAGES))
    return heads / np.linalg.norm(embeds, axis=1)[:, None, None, None]


def first_pick(outputs, texts):
    """The text of which the projections vary most, inside the space of the outputs."""
    _, sizes, rows = np.linalg.svd(outputs, full_matrices=False)
    rows = rows[sizes > 1e-6 * sizes[0]]
    return int((outputs @ (texts @ rows.T @ rows).T).var(axis=0).argmax())


def test_pictures_are_those_of_the_facets_in_order():
    chosen = image_facets(FACETS)
    assert [facet.rows.name for facet in chosen] == ["photo", "word"]  # no texts, no control
    pictures, out = FacetPictures(chosen), np.zeros((SIDE, SIDE, 3), np.uint8)
    assert len(pictures) == 28
    for index, image in enumerate(IMAGES):
        pictures.fill(index, out)
        np.testing.assert_array_equal(out, image)
    assert image_facets(FACETS, ["scrambled"]) == [FACETS["scrambled"]]
    with pytest.raises(UserError, match="caption has texts"):
        image_facets(FACETS, ["caption"])
    with pytest.raises(UserError, match="no picture"):
        FacetPictures([])


def test_views_of_a_stimulus_are_averaged():
    rows = np.random.default_rng(0).normal(size=(8, 3))
    found = mean_of_views(rows, FACETS["word"])
    np.testing.assert_allclose(found[0], rows[:3].mean(axis=0))
    np.testing.assert_allclose(found[1], rows[3])
    assert len(found) == 5


def test_texts_of_heads_are_those_of_their_effects(model, effects):
    """Whole batches and a part of one; what fills the last batch up must not count."""
    texts = np.random.default_rng(4).normal(size=(40, 10)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    pictures = FacetPictures(image_facets(FACETS))
    found = head_spans(model, pictures, texts, layers=[0, 1], picks=3, batch_size=12)
    assert [(one.layer, one.head) for one in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for one in found:
        outputs = effects[:, one.layer, one.head]
        assert one.span.texts[0] == first_pick(outputs, texts)
        assert one.variance == pytest.approx(outputs.var(axis=0).sum(), rel=1e-4)
        size = np.sqrt((outputs**2).sum(axis=1).mean())
        assert one.size == pytest.approx(size, rel=1e-4)
    assert last_layers(model, 1) == [1]
    assert last_layers(model, 9) == [0, 1]
    with pytest.raises(UserError, match="layer 2: the image tower has layers 0 to 1"):
        head_spans(model, pictures, texts, layers=[2])


def test_neurons_are_those_of_all_pictures_at_once(model):
    path = "image/blocks/0/mlp_act"
    texts = model.encode_text(WORDS)
    pictures = FacetPictures(image_facets(FACETS))
    found = neuron_texts(model, pictures, path, texts, count=3, batch_size=12)
    assert found.images == 28
    whole, moments = SecondOrder(model.config, model.params, path), Moments()
    moments.update(whole.coefficients(IMAGES))
    wanted = whole.effects(moments)
    np.testing.assert_allclose(found.effects.size, wanted.size, rtol=1e-4)
    np.testing.assert_allclose(found.effects.direction, wanted.direction, atol=1e-3)


@pytest.fixture
def neurons(model, monkeypatch, capsys, tmp_path):
    """Runs a command with this model and these stimuli; returns (status, figures, out, err)."""
    concepts = [Concept(word, word, (word,)) for word in WORDS]
    stimuli = types.SimpleNamespace(name="memory", facets=FACETS, concepts=concepts)

    def open_stimuli(where, config, *, tokenizer=None, facets=None, **_):
        return stimuli

    monkeypatch.setattr("clipjax.interpret.stimuli.open_stimuli", open_stimuli)
    monkeypatch.setattr("clipjax.interpret.reopened.open_stimuli", open_stimuli)
    monkeypatch.setattr("clipjax.inference.load.load", lambda *_, **__: model)

    def run(command, *flags):
        path = tmp_path / "figures.json"
        out = tmp_path / "out"
        given = [f"--json={path}"]
        if command != "dissect":
            given += ["--model=m", "--stimuli=memory", f"--out={out}"]
        with pytest.raises(SystemExit) as ended:
            main(["neurons", command, *flags, *given])
        figures = json.loads(path.read_text()) if ended.value.code == 0 else None
        return ended.value.code, figures, *capsys.readouterr()

    return run


def test_textspan_writes_the_texts_of_each_head(neurons, tmp_path):
    code, found, out, _ = neurons("textspan", "--layers=last1", "--picks=20", "--batch_size=16")
    assert code == 0
    assert json.loads((tmp_path / "out" / "textspan.json").read_text()) == found
    assert [(one["layer"], one["head"]) for one in found["heads"]] == [(1, 0), (1, 1)]
    assert found["facets"] == ["photo", "word"]
    for head in found["heads"]:
        assert set(head["texts"]) <= set(WORDS)
        assert np.all(np.diff(head["explained"]) > 0)
        assert 0 < head["explained"][-1] <= 1 + 1e-9
        assert f"{head['layer']}:{head['head']}" in out


def test_second_order_writes_each_neuron(neurons, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\n\n  a dog \na car\n")
    path = "image/blocks/0/mlp_act"
    code, found, _out, _ = neurons("second-order", path, f"--texts={texts}", "--batch_size=16")
    assert code == 0
    assert json.loads((tmp_path / "out" / "second_order.json").read_text()) == found
    assert [one["unit"] for one in found["neurons"]] == [f"{path}:{n}" for n in range(24)]
    with np.load(tmp_path / "out" / "second_order.npz", allow_pickle=False) as arrays:
        directions = arrays["direction"]
    for neuron, direction in zip(found["neurons"], directions, strict=True):
        assert {one["text"] for one in neuron["texts"]} <= {"a cat", "a dog", "a car"}
        assert np.linalg.norm(direction) == pytest.approx(1)
        assert 0 <= neuron["explained"] <= 1


@pytest.mark.parametrize(
    ("given", "status", "why"),
    [
        (["textspan", "--layers=last0"], 2, "--layers='last0': expected lastN"),
        (["textspan", "--layers=7"], 1, "layer 7: the image tower has layers 0 to 1"),
        (["textspan", "--texts=nowhere.txt"], 1, "--texts=nowhere.txt: cannot be read"),
        (["textspan", "--picks=0"], 2, "--picks=0 is not positive"),
        (["textspan", "--batch_size=0"], 2, "--batch_size=0 is not positive"),
        (["second-order", "image/blocks/1/mlp_act"], 1, "is the last layer"),
    ],
)
def test_what_cannot_be_told_is_an_error(neurons, tmp_path, given, status, why):
    code, _, _, err = neurons(*given)
    assert code == status
    assert why in err
    assert not list(tmp_path.glob("out/*"))


def test_texts_that_are_twice_there_are_an_error(neurons, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("cat\ndog\ncat\n")
    code, _, _, err = neurons("textspan", f"--texts={texts}")
    assert code == 1
    assert "text 3, 'cat', is there twice" in err


def scan_of(path, facet, activations, identity="another"):
    """A scan of one facet whose exemplars are known."""
    record = ScanRecord(
        model="runs/scanned",
        identity=identity,
        step=1,
        config={},
        stimuli="memory",
        paths={"image/out": activations.shape[1]},
        facets={facet.rows.name: ("image/out",)},
        pool="max",
        bins=9,
        exemplars=4,
    )
    concepts = [Concept(word, word, (word,)) for word in WORDS]
    name, kept = facet.rows.name, summarise(activations, bins=9, exemplars=4)
    write_scan(path, record, concepts, {name: facet.rows}, {name: activations}, {name: kept})
    return f"--scan={path}"


def test_a_judge_names_units_by_what_it_sees_in_their_exemplars(neurons, model, tmp_path):
    """The stimuli that the judge finds most like a text are the exemplars of a unit each."""
    facet = FACETS["photo"]
    embeds = model.encode_image(facet.pixels)
    given = given_similarity(embeds, model.encode_text(WORDS))
    rng = np.random.default_rng(0)
    activations = np.concatenate([given, rng.normal(size=(20, 3))], axis=1).astype(np.float32)
    scan = scan_of(tmp_path / "scan", facet, activations)
    code, found, _, _ = neurons("dissect", scan, "--judge=m", "--draws=300")
    assert code == 0
    assert found["measure"] == "soft_wpmi"
    wanted = wpmi_names(np.argsort(-activations, axis=0, kind="stable")[:4].T, given, draws=300)
    assert [unit["nearest"] for unit in found["units"]] == [WORDS[c] for c in wanted.concept]
    np.testing.assert_allclose([unit["q"] for unit in found["units"]], wanted.q_value)
    texts = tmp_path / "texts.txt"
    texts.write_text("dog\ncat\n")
    code, found, _, _ = neurons("dissect", scan, "--judge=m", "--draws=99", f"--concepts={texts}")
    assert {unit["nearest"] for unit in found["units"]} <= {"dog", "cat"}


def test_a_judge_of_itself_or_of_other_stimuli_is_refused(neurons, tmp_path):
    activations = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    itself = scan_of(tmp_path / "itself", FACETS["photo"], activations, identity="abc")
    code, _, _, err = neurons("dissect", itself, "--judge=m")
    assert code == 1
    assert "would agree with itself" in err
    other = scan_of(tmp_path / "other", Pixels("photo", [1] * 9, 0), activations[:9])
    code, _, _, err = neurons("dissect", other, "--judge=m")
    assert code == 1
    assert "photo holds other stimuli or labels" in err
    code, _, _, err = neurons("dissect", other, "--root=data")
    assert code == 2
    assert "--root needs --judge" in err


def test_the_facet_of_these_tests_is_one():
    assert isinstance(FACETS["photo"], Facet)
