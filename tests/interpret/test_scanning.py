"""A scan, against the model called by hand and NumPy; on more devices; killed; with bad numbers."""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from clipjax.config import UsageError, UserError
from clipjax.core.folder_lock import locked_folder
from clipjax.interpret.scan_files import Scan
from clipjax.interpret.scanning import scan
from clipjax.interpret.statistics.ranks import facet_scores, of_rank_sums
from clipjax.interpret.summaries import summarise
from clipjax.models import with_params
from clipjax.models.taps import tapped

SCRIPT = Path(__file__).parent / "tiny_scan.py"
_spec = importlib.util.spec_from_file_location("tiny_scan", SCRIPT)
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

FIELDS = [field.name for field in dataclasses.fields(summarise(np.zeros((1, 1), np.float32)))]
UNITS = ("image/*/mlp_act", "text/*/mlp_act", "shared/embed")


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_model()


@pytest.fixture(scope="module")
def stimuli():
    return tiny.tiny_stimuli()


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, stimuli):
    """A scan whose pilot is all stimuli; batches cut stimuli of three views apart."""
    out = tmp_path_factory.mktemp("scan") / "whole"
    return scan(model, stimuli, out=out, units=UNITS, batch_size=16, name="tiny")


def by_hand(model, facet, paths, how="max"):
    """Activations [rows, units] by path, of single samples, views averaged in float64."""
    rows = facet.rows
    encode = tapped(
        lambda params, x: getattr(with_params(model.config, params), f"encode_{rows.tower}")(x),
        read=dict.fromkeys(paths, how),
    )
    if rows.tower == "image":
        x = np.zeros((rows.samples, 16, 16, 3), np.uint8)
        for sample in range(rows.samples):
            facet.fill(sample, x[sample])
    else:
        x = np.stack([model.tokenizer(facet.text(sample)) for sample in range(rows.samples)])
    _, reads = jax.jit(encode)(model.params, x)
    means = {}
    for path, array in reads.items():
        sums = np.zeros((len(rows.stimuli), array.shape[1]))
        np.add.at(sums, facet.owner, np.asarray(array, np.float64))
        means[path] = sums / np.bincount(facet.owner)[:, None]
    return means


def test_activations_are_those_of_the_model(whole, model, stimuli):
    assert whole.record.paths == {
        "image/blocks/0/mlp_act": 20,
        "image/blocks/1/mlp_act": 20,
        "shared/embed": 11,
        "text/blocks/0/mlp_act": 24,
    }
    for name, facet in stimuli.facets.items():
        paths = whole.record.facets[name]
        assert len(paths) == (2 if name == "caption" else 3)
        for path, wanted in by_hand(model, facet, paths).items():
            found = whole.activations(name, path)
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6, err_msg=path)


def test_summaries_are_numpys_of_the_stored_activations(whole):
    for name in whole.facets:
        for path in whole.record.facets[name]:
            found, wanted = whole.summary(name, path), summarise(whole.activations(name, path))
            for field in FIELDS:
                np.testing.assert_allclose(
                    getattr(found, field), getattr(wanted, field), rtol=1e-6, atol=1e-6
                )


def test_rank_sums_are_those_of_the_activations(whole):
    """127 pairs of edges among 150 stimuli: a rank is off by one at most."""
    for name in whole.facets:
        rows = whole.rows(name)
        positives = rows.labels.sum(axis=0)
        for path in whole.record.facets[name]:
            sums = whole.rank_sums(name, path)
            found, _ = of_rank_sums(sums, np.ones(len(sums)), positives, len(rows.stimuli))
            wanted = facet_scores(np.asarray(whole.activations(name, path)), rows.labels).auroc
            np.testing.assert_allclose(found, wanted, atol=0.01)


def test_codes_are_the_bins_of_the_activations(whole, model, stimuli, tmp_path):
    coded = scan(
        model, stimuli, out=tmp_path / "o", units=UNITS, store="codes", batch_size=16, bins=9
    )
    assert coded.record.store == "codes"
    for name in coded.facets:
        for path in coded.record.facets[name]:
            codes, summary = coded.activations(name, path), coded.summary(name, path)
            assert codes.dtype == np.uint8
            exact = np.asarray(whole.activations(name, path))
            for unit, edges in enumerate(summary.edges):
                wanted = np.searchsorted(edges, exact[:, unit], side="right")
                np.testing.assert_array_equal(codes[:, unit], wanted)
                np.testing.assert_array_equal(
                    summary.counts[unit], np.bincount(wanted, minlength=len(edges) + 1)
                )


def test_a_pilot_of_some_changes_bins_only(whole, model, stimuli, tmp_path):
    some = scan(model, stimuli, out=tmp_path / "o", units=UNITS, batch_size=16, pilot=40)
    for name in some.facets:
        for path in some.record.facets[name]:
            np.testing.assert_array_equal(
                some.activations(name, path), whole.activations(name, path)
            )
            found, wanted = some.summary(name, path), whole.summary(name, path)
            for field in set(FIELDS) - {"edges", "counts"}:
                np.testing.assert_allclose(
                    getattr(found, field), getattr(wanted, field), rtol=1e-6, atol=1e-6
                )
            assert (found.counts.sum(axis=1) == found.rows).all()


def test_eight_devices_give_what_one_gives(tmp_path):
    """Bit by bit: each device has the batch of the one, and its units are its own."""
    one, eight = (
        scan(
            tiny.tiny_model(devices),
            tiny.tiny_stimuli(40),
            out=tmp_path / str(devices),
            units=UNITS,
            batch_size=2,
            k=5,
            pilot=21,
        )
        for devices in (1, 8)
    )
    assert eight.record.devices == "8 x cpu"
    for name in one.facets:
        for path in one.record.facets[name]:
            np.testing.assert_array_equal(
                eight.activations(name, path), one.activations(name, path)
            )
            many, alone = eight.summary(name, path), one.summary(name, path)
            for field in FIELDS:
                ids = field.endswith("_rows") or field in ("counts", "edges")
                np.testing.assert_allclose(
                    getattr(many, field), getattr(alone, field), rtol=0 if ids else 1e-6, atol=1e-6
                )
            np.testing.assert_allclose(
                eight.rank_sums(name, path), one.rank_sums(name, path), rtol=1e-6, atol=1e-4
            )


def same_scans(one, other):
    """Whether two folders hold the same scan, byte by byte but for times."""
    a, b = Scan(one), Scan(other)
    assert dataclasses.replace(a.record, seconds=0.0) == dataclasses.replace(b.record, seconds=0.0)
    for folder in ("facets", "activations", "summaries"):
        names = sorted(path.name for path in (one / folder).iterdir())
        assert names == sorted(path.name for path in (other / folder).iterdir())
        for name in names:
            if name.endswith(".npy"):
                assert (one / folder / name).read_bytes() == (other / folder / name).read_bytes()
                continue
            with np.load(one / folder / name) as x, np.load(other / folder / name) as y:
                assert x.files == y.files
                for key in x.files:
                    np.testing.assert_array_equal(x[key], y[key], err_msg=f"{name}: {key}")


def test_a_killed_scan_goes_on(tmp_path, model, make_child_env):
    """SIGKILL in the middle of the second facet, whose stimuli have three views."""
    options = {"rows": 120, "batch_size": 4, "pilot": 30, "save_every": 3}
    out, states = tmp_path / "killed", tmp_path / "killed" / ".scan" / "states"
    given = [f"{name}={number}" for name, number in options.items()]
    command = [sys.executable, str(SCRIPT), str(out), "1", *given, "slow=5"]
    env = make_child_env(8)  # the same program as in this process

    def saved():
        return [int(path.parent.name) for path in states.glob("word.*/*/manifest.json")]

    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        while not saved() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < max(saved()) < 90
    with pytest.raises(UserError, match="go on with one"):
        Scan(out)
    before = (out / "summaries" / "photo.npz").stat().st_mtime_ns

    done = []
    rows = options.pop("rows")
    stimuli = tiny.tiny_stimuli(rows)
    counted = dataclasses.replace(
        stimuli, facets={**stimuli.facets, "word": Counting(stimuli, done)}
    )
    scan(model, counted, out=out, **options)
    assert 0 < len(done) < 3 * rows
    assert (out / "summaries" / "photo.npz").stat().st_mtime_ns == before
    assert not states.exists()
    scan(model, stimuli, out=tmp_path / "whole", **options)
    same_scans(out, tmp_path / "whole")


class Counting:
    """The facet of words; counts what is asked for."""

    def __init__(self, stimuli, done):
        facet = stimuli.facets["word"]
        self.rows, self.owner, self.text, self.picture = (
            facet.rows,
            facet.owner,
            facet.text,
            facet.picture,
        )
        self._facet, self._done = facet, done

    def fill(self, sample, out):
        self._done.append(sample)
        self._facet.fill(sample, out)


def test_the_same_again_is_done(whole, model, stimuli, capfd):
    before = (whole.path / "scan.json").stat().st_mtime_ns
    again = scan(model, stimuli, out=whole.path, units=UNITS, batch_size=16, name="tiny")
    assert again.record == whole.record
    assert (whole.path / "scan.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["model", "stimuli", "settings"])
def test_another_scan_is_not_written_over(whole, model, stimuli, tmp_path, change):
    out = tmp_path / "o"
    shutil.copytree(whole.path, out)
    options = {"units": UNITS, "batch_size": 16, "name": "other"}
    if change == "model":
        model = tiny.tiny_model(seed=1)
    elif change == "stimuli":
        stimuli = dataclasses.replace(stimuli, digest="other")
    else:
        options["pool"] = "mean"
    with pytest.raises(UserError, match=r"holds a scan of tiny with noise.*--force"):
        scan(model, stimuli, out=out, **options)
    assert Scan(out).record == whole.record
    assert scan(model, stimuli, out=out, force=True, **options).record.model == "other"


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["scan.json", "concepts.json", "dataset.json", "facets/mine.txt"])
def test_a_folder_of_something_else_is_not_touched(tmp_path, model, stimuli, name, force):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="holds files that are not of a scan"):
        scan(model, stimuli, out=tmp_path, force=force)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_files_of_other_names_stay(tmp_path, model, stimuli):
    (tmp_path / "controls").mkdir()
    (tmp_path / "match.json").write_text("{}")
    photo = tiny.stimuli_of("noise", [stimuli.facets["photo"]], tiny.CONCEPTS)
    scan(model, photo, out=tmp_path, units=UNITS[:1], batch_size=16, force=True)
    assert (tmp_path / "match.json").exists()
    assert (tmp_path / "controls").exists()


def test_what_was_found_goes_with_the_scan_that_is_replaced(whole, model, stimuli, tmp_path):
    out = tmp_path / "o"
    shutil.copytree(whole.path, out)
    found = [out / name for name in ("neurons.json", "rsa.json", "controls/a/scan.json")]
    found[-1].parent.mkdir(parents=True)
    for path in found:
        path.write_text("{}")
    photo = tiny.stimuli_of("noise", [stimuli.facets["photo"]], tiny.CONCEPTS)
    options = {"units": UNITS[:1], "batch_size": 16, "out": out}
    with pytest.raises(UserError, match="--force"):
        scan(model, photo, **options)
    assert all(path.exists() for path in found)
    again = scan(model, photo, force=True, **options)
    assert again.record.key != whole.record.key
    assert not any(path.exists() for path in found)
    found[0].write_text("{}")
    scan(model, photo, force=True, **options)  # of the same scan it holds still
    assert found[0].exists()


def test_two_scans_cannot_share_a_folder(tmp_path, model, stimuli):
    with (
        locked_folder(tmp_path, "--out", "process"),
        pytest.raises(UserError, match=rf"pid {os.getpid()}\) is writing here"),
    ):
        scan(model, stimuli, out=tmp_path)
    assert os.listdir(tmp_path) == [".lock"]


def test_damaged_files_are_made_again(whole, model, stimuli, tmp_path):
    out = tmp_path / "o"
    shutil.copytree(whole.path, out)
    (out / "activations" / "photo.npy").write_bytes(b"")
    (out / "facets" / "word.npz").write_bytes(b"PK")
    (out / "concepts.json").unlink()
    summary = out / "summaries" / "caption.npz"
    before = summary.stat().st_mtime_ns
    scan(model, stimuli, out=out, units=UNITS, batch_size=16, name="tiny")
    same_scans(out, whole.path)
    assert summary.stat().st_mtime_ns == before
    summary.write_bytes(summary.read_bytes()[:-100])
    (out / "scan.json").write_text("{")
    scan(model, stimuli, out=out, units=UNITS, batch_size=16, name="tiny")
    same_scans(out, whole.path)


def test_a_scan_of_another_schema_is_replaced_with_force(whole, model, stimuli, tmp_path):
    out = tmp_path / "o"
    shutil.copytree(whole.path, out)
    fields = json.loads((out / "scan.json").read_text())
    (out / "scan.json").write_text(json.dumps({**fields, "schema": 99}))
    photo = tiny.stimuli_of("noise", [stimuli.facets["photo"]], tiny.CONCEPTS)
    with pytest.raises(UserError, match=r"of schema 99, .*--force"):
        scan(model, stimuli, out=out, units=UNITS, batch_size=16)
    assert scan(model, photo, out=out, batch_size=16, force=True).facets == ("photo",)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_none_is_named(tmp_path, number):
    """Unit 5 of the second block is bad, and so is what follows from it."""

    def broken(params):
        name = "image/blocks/stack/1/mlp/fc1/bias"
        bias = np.array(params[name])
        bias[5] = number
        return params | {name: jax.numpy.asarray(bias)}

    with pytest.raises(UserError, match=r"image/blocks/1/mlp_act:5: .* stimulus s\d+ of the facet"):
        scan(tiny.tiny_model(change=broken), tiny.tiny_stimuli(), out=tmp_path / "o")
    assert not (tmp_path / "o" / "scan.json").exists()


def test_a_bad_picture_ends_the_scan_with_its_name(tmp_path, model):
    from clipjax.data.decode import BadSampleError

    good = tiny.pictures()
    reads = []

    def read(sample):
        reads.append(sample)
        if sample == 77 and len(reads) > 150:  # not while it is measured
            raise BadSampleError("damaged", "cut short")
        return np.zeros((16, 16, 3), np.uint8)

    facet = tiny.pictures(read=read)
    stimuli = tiny.stimuli_of("noise", [facet], tiny.CONCEPTS)
    with pytest.raises(UserError, match=r"facet photo: the picture of s77 cannot be used"):
        scan(model, stimuli, out=tmp_path / "o")
    assert good.rows.stimuli[77] == "s77"


def test_unknown_units_and_settings(tmp_path, model, stimuli):
    with pytest.raises(UserError, match=r"Did you mean .*mlp_act"):
        scan(model, stimuli, out=tmp_path, units=["image/blocks/0/mlp_atc"])
    with pytest.raises(UserError, match=r"'nosuch' fits no unit .* image/blocks/\*/mlp_act, "):
        scan(model, stimuli, out=tmp_path, units=["nosuch"])
    captions = tiny.stimuli_of("texts", [stimuli.facets["caption"]], tiny.CONCEPTS)
    with pytest.raises(UserError, match="none of image"):
        scan(model, captions, out=tmp_path, units=["image/*"])
    for wrong in ({"bins": 257}, {"k": 0}, {"pilot": 0}, {"batch_size": 0}, {"seed": -1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            scan(model, stimuli, out=tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_the_mean_over_places(tmp_path, model, stimuli):
    photo = tiny.stimuli_of("noise", [stimuli.facets["photo"]], tiny.CONCEPTS)
    found = scan(model, photo, out=tmp_path / "o", pool="mean")
    for path, wanted in by_hand(model, photo.facets["photo"], found.record.paths, "mean").items():
        np.testing.assert_allclose(found.activations("photo", path), wanted, rtol=2e-5, atol=2e-6)


def test_nothing_is_kept_where_nothing_is_to_be(tmp_path, model, stimuli):
    found = scan(model, stimuli, out=tmp_path / "o", store="none")
    assert list((tmp_path / "o" / "activations").iterdir()) == []
    with pytest.raises(UserError, match="store=none"):
        found.activations("photo", "shared/embed")
    assert json.loads((tmp_path / "o" / "scan.json").read_text())["store"] == "none"
    assert os.listdir(tmp_path / "o" / ".scan") == ["about.json"]
