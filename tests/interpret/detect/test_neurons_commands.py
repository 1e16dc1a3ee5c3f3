"""neurons test, search and show: what they print, write and end with."""

import json

import numpy as np
import pytest

from clipjax.cli.main import main
from clipjax.interpret.findings import ARRAYS, JSON
from clipjax.interpret.statistics.planted import PlantConfig, plant

CONFIG = PlantConfig(
    units=24, concepts=6, stimuli=120, planted=8, single=4, divergent=2, fewest=10, most=20,
    effect=3.0,
)  # fmt: skip
QUIET = PlantConfig(units=24, concepts=6, stimuli=120, planted=0, single=0, divergent=0)


@pytest.fixture
def clipjax(capsys):
    def run(*args):
        with pytest.raises(SystemExit) as ended:
            main(["neurons", *map(str, args)])
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    return run


@pytest.fixture(scope="module")
def planted():
    return plant(CONFIG, seed=0)


@pytest.fixture(scope="module")
def tested(plants, planted, tmp_path_factory):
    """A scan that was tested, with a control in which there is nothing."""
    path = tmp_path_factory.mktemp("scan")
    plants.write_planted(path, planted)
    quiet = plant(QUIET, seed=1)
    rows = {f"facet{m}": plants.rows_of(f"facet{m}", planted.labels) for m in (0, 1)}
    acts = {f"facet{m}": a for m, a in enumerate(quiet.activations)}
    plants.write(path / "controls" / "untrained", rows, acts)
    with pytest.raises(SystemExit) as ended:
        main(["neurons", "test", "--scan", str(path), "--rotations", "1", "--permutations", "99"])
    assert ended.value.code == 0
    return path


def test_counts_are_printed_beside_their_controls(clipjax, tested, tmp_path):
    figures = tmp_path / "figures.json"
    code, out, _ = clipjax(
        "test", "--scan", tested, "--rotations", 1, "--permutations", 99, "--json", figures
    )
    assert code == 0
    content = json.loads((tested / JSON).read_text())
    (space,) = content["spaces"]
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("units of"))
    rows = [line.split() for line in lines[head + 1 : head + 4]]
    assert rows[0][:2] == [space["path"], "model"]
    assert int(rows[0][2]) == space["pairs"] >= 8
    assert rows[1][:2] == ["untrained", str(space["controls"]["untrained"]["pairs"])]
    assert rows[2][0] == "rotated"
    assert f"enrichment {space['permutation']['enrichment']:.3g}" in out
    assert "they say nothing about models of the web" in out.replace("\n", " ")
    assert json.loads(figures.read_text())["summary"] == content["summary"]
    with np.load(tested / ARRAYS, allow_pickle=False) as arrays:
        found = arrays[f"{space['path']}:found"]
    assert found.sum() == space["pairs"]


def test_a_failed_control_is_told_by_the_exit_status(clipjax, plants, planted, tmp_path):
    plants.write_planted(tmp_path, planted)
    plants.write_planted(tmp_path / "controls" / "shuffled", planted)
    code, out, _ = clipjax("test", "--scan", tmp_path, "--rotations", 0, "--permutations", 0)
    assert code == 3
    (line,) = [line for line in out.splitlines() if line.startswith("control failed")]
    assert "shuffled has" in line
    assert "shuffled (!)" in out
    assert "a control model with a tenth of the model's pairs or more" in out.replace("\n", " ")
    assert (tmp_path / JSON).exists()
    assert (tmp_path / ARRAYS).exists()


def test_search_and_show(clipjax, tested, planted):
    unit, concept = np.argwhere(planted.truth)[0]
    code, out, _ = clipjax("search", f"thing{concept}", "--scan", tested)
    assert code == 0
    name = f"image/blocks/0/mlp_act:{unit}"
    (row,) = [line for line in out.splitlines() if line.startswith(f"{name} ")]
    assert f"thing{concept}" in row
    code, out, _ = clipjax("show", name, "--scan", tested, "--most", 2)
    assert code == 0
    told = json.loads((tested / JSON).read_text())
    told = next(one for one in told["units"] if one["unit"] == name)
    for facet, auroc in told["concepts"][0]["auroc"].items():
        low, high = told["concepts"][0]["interval"][facet]
        assert f"{auroc:.3f}  {low:.3f} to {high:.3f}" in out
        assert told["top"][facet][0]["text"] in out
    assert out.count("* ") >= 2
    assert "120 in all" in out


def test_mistakes_end_with_a_line(clipjax, plants, planted, tested, tmp_path):
    code, _, err = clipjax("search", "elephant", "--scan", tested)
    assert code == 1
    assert "no listed unit answers to 'elephant'" in err
    code, _, err = clipjax("show", "image/blocks/0/mlp_act:9999", "--scan", tested)
    assert code == 1
    assert "Did you mean 'image/blocks/0/mlp_act:" in err
    code, _, err = clipjax("search", "thing1", "--scan", tmp_path)
    assert code == 1
    assert "clipjax neurons test --scan" in err
    for flag, value in (("--q", 2), ("--strata", -1), ("--floor", 7), ("--required", 0)):
        code, _, err = clipjax("test", "--scan", tested, flag, value)
        assert code == 2, flag
    code, _, err = clipjax("test", "--scan", tested, "--conj", "maxp-bj")
    assert code == 2
    assert "Did you mean 'maxp-b" in err
    code, _, err = clipjax("test", "--scan", tested, "--required", 3)
    assert code == 1
    assert "it runs facet0, facet1 of facet0, facet1, and 3 (--required) are needed" in err


def test_nothing_is_written_if_it_fails(clipjax, plants, tmp_path):
    planted = plant(CONFIG, seed=0)
    planted.activations[1][3, 4] = np.inf - np.inf
    plants.write_planted(tmp_path, planted)
    code, _, err = clipjax("test", "--scan", tmp_path)
    assert code == 1
    assert "mlp_act:4: its activation at stimulus s3 is NaN" in err
    assert not list(tmp_path.glob("neurons*"))
    assert not list(tmp_path.glob(".neurons*"))


@pytest.mark.parametrize("name", [JSON, ARRAYS])
def test_a_scan_that_cannot_be_written_is_told(clipjax, plants, planted, tmp_path, name):
    plants.write_planted(tmp_path, planted)
    (tmp_path / name).mkdir()
    code, _, err = clipjax("test", "--scan", tmp_path, "--rotations", 0, "--permutations", 0)
    assert code == 1
    assert f"{name}: cannot be written" in err
    assert not any(path.is_file() for path in tmp_path.glob("*neurons*"))
