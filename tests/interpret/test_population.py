"""Units as populations and cells, against SciPy and by hand; tables that are none."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import pearsonr, spearmanr

from clipjax.cli.main import main
from clipjax.config.errors import UserError
from clipjax.data.concepts import Concept
from clipjax.interpret import population
from clipjax.interpret.facets import FacetRows
from clipjax.interpret.population import facet_dissimilarities, read_dissimilarities
from clipjax.interpret.scan_files import ScanRecord, write_scan
from clipjax.interpret.spaces import Space
from clipjax.interpret.summaries import summarise

PATH, EMBED = "image/hidden/mlp_act", "shared/embed"
CONCEPTS = [Concept("cat", "cat", ("cat",)), Concept("dog", "dog", ("dog",))]


def rows_of(name, ids, *, tower="image", control=False):
    labels = np.stack([np.arange(len(ids)) % 2 == 0, np.arange(len(ids)) % 4 == 1], axis=1)
    return FacetRows(
        name=name,
        tower=tower,
        is_control=control,
        stimuli=tuple(ids),
        samples=len(ids),
        texts=("",) * len(ids),
        labels=labels,
        confounds=np.zeros((len(ids), 0)),
    )


@pytest.fixture(scope="module")
def acts():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(12, 9)).astype(np.float32) for name in ("photo", "edges")}


@pytest.fixture
def scan(acts, tmp_path):
    """Two facets that share ten of twelve stimuli, in another order, and a control."""
    ids = [f"e{number}" for number in range(14)]
    rows = {"photo": rows_of("photo", ids[:12]), "edges": rows_of("edges", ids[:1:-1])}
    rows["scrambled"] = rows_of("scrambled", ["x", "y", "z"], control=True)
    values = {**acts, "scrambled": np.ones((3, 9), np.float32)}
    record = ScanRecord(
        model="runs/a",
        identity="a",
        step=1,
        config={},
        stimuli="noise",
        paths={PATH: 5, EMBED: 4},
        facets=dict.fromkeys(rows, (PATH, EMBED)),
        pool="max",
        bins=8,
        exemplars=3,
    )
    kept = {name: summarise(one, bins=8, exemplars=3) for name, one in values.items()}
    return write_scan(tmp_path / "scan", record, CONCEPTS, rows, values, kept)


@pytest.fixture
def rsa(scan, capsys):
    def run(*flags):
        with pytest.raises(SystemExit) as ended:
            main(["neurons", "rsa", f"--scan={scan.path}", *flags])
        out, err = capsys.readouterr()
        if ended.value.code:
            return ended.value.code, None, err
        return 0, json.loads((scan.path / "rsa.json").read_text()), out

    return run


def write_table(path, ids, matrix, *, order=None, separator=","):
    lines = [separator.join(["", *ids])]
    for row in order or range(len(ids)):
        lines.append(separator.join([ids[row], *map(str, matrix[row].tolist())]))
    path.write_text("\n".join(lines) + "\n")
    return f"--given={path}"


@pytest.mark.parametrize("metric", ["correlation", "cosine", "euclidean"])
@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_populations_are_compared_as_scipy_would(rsa, acts, tmp_path, metric, method):
    judged = np.random.default_rng(1).uniform(size=(5, 5))
    judged += judged.T
    np.fill_diagonal(judged, 0)
    ids = ["e3", "e9", "unknown", "e5", "e11"]
    given = write_table(tmp_path / "judged.tsv", ids, judged, order=[4, 0, 2, 1, 3], separator="\t")
    asked = (f"--metric={metric}", f"--method={method}", "--permutations=19")
    code, found, out = rsa(f"--path={PATH}", given, *asked)
    assert code == 0
    assert "scrambled" not in out
    correlation = {"spearman": spearmanr, "pearson": pearsonr}[method]
    place = {"photo": lambda n: n, "edges": lambda n: 13 - n}

    def between(facet, numbers):
        chosen = acts[facet][[place[facet](n) for n in numbers]][:, :5].astype(np.float64)
        return pdist(chosen, metric)

    known = [3, 9, 5, 11]
    wanted = squareform(judged[np.ix_([0, 1, 3, 4], [0, 1, 3, 4])], checks=False)
    by_pair = {(one["first"], one["second"]): one for one in found["compared"]}
    for facet in ("photo", "edges"):
        one = by_pair[facet, "judged.tsv"]
        assert one["stimuli"] == 4
        expected = correlation(between(facet, known), wanted).statistic
        assert one["similarity"]["correlation"] == pytest.approx(expected, abs=1e-9)
    shared = list(range(2, 12))
    expected = correlation(between("photo", shared), between("edges", shared)).statistic
    one = by_pair["photo", "edges"]["similarity"]
    assert one["correlation"] == pytest.approx(expected, abs=1e-9)
    assert 1 / 20 <= one["p_value"] <= 1
    assert found["cells"] is None
    assert "clipjax neurons test" in out


def test_a_judgement_that_is_the_model_is_found(rsa, scan, tmp_path):
    space = Space(scan=scan, path=PATH, facets=("photo",))
    same = facet_dissimilarities(space, "photo")
    given = write_table(tmp_path / "same.csv", same.stimuli, same.matrix)
    code, found, _ = rsa(f"--path={PATH}", "--facets=photo", given, "--permutations=199")
    assert code == 0
    (one,) = found["compared"]
    assert one["similarity"] == {"correlation": pytest.approx(1), "p_value": 1 / 200}


def test_found_units_are_described_as_cells(rsa, scan, acts):
    """Values of an axis taken down are those of its opposite; views are those of both facets."""
    cat, dog = ({"concept": one, "found": True} for one in ("cat", "dog"))
    units = [
        {"path": EMBED, "index": 2, "sign": "-", "concepts": [{**cat, "found": False}, dog]},
        {"path": EMBED, "index": 1, "sign": "+", "concepts": [{**cat, "found": False}]},
        {"path": EMBED, "index": 3, "sign": "+", "concepts": []},
        {"path": PATH, "index": 0, "sign": "", "concepts": [cat]},
    ]
    (scan.path / "neurons.json").write_text(json.dumps({"schema": 1, "units": units}))
    code, found, out = rsa(f"--path={EMBED}")
    assert code == 0
    (cell,) = found["cells"]
    assert cell["unit"] == f"{EMBED}:2-"
    assert f"{EMBED}:2-  dog" in out
    answered = views = 0
    for facet in ("photo", "edges"):
        x = -acts[facet][:, 7].astype(np.float64)
        scaled = (x - x.min()) / np.ptp(x)
        assert cell["selectivity"][facet] == pytest.approx(1 - 2 * scaled.mean())
        shows = scan.rows(facet).labels[:, 1]
        answered += (x[shows] > x[~shows].mean() + 5 * x[~shows].std()).sum()
        views += shows.sum()
    assert cell["views"] == views == 6
    assert cell["invariance"] == pytest.approx(answered / views)


def test_facets_share_the_stimuli_that_are_drawn(scan, monkeypatch):
    """Of stimuli that both have, one draws what the other does unless others crowd them out."""
    space = Space(scan=scan, path=PATH, facets=("photo", "edges"))
    everyone = facet_dissimilarities(space, "photo")
    monkeypatch.setattr(population, "MOST_STIMULI", 8)
    photo, edges = (facet_dissimilarities(space, name) for name in space.facets)
    assert len(set(photo.stimuli)) == len(photo.matrix) == 8
    shared = {*photo.stimuli} & {*edges.stimuli}
    own = {"e0", "e1", "e12", "e13"}
    assert len(shared) >= 8 - len(own & {*photo.stimuli, *edges.stimuli})
    np.testing.assert_allclose(photo.matrix, everyone.of(photo.stimuli))
    assert facet_dissimilarities(space, "photo", seed=1).stimuli != photo.stimuli


UNEVEN = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
GOOD = [["", "a", "b", "c"], ["a", "0", "1", "2"], ["b", "1", "0", "3"], ["c", "2", "3", "0"]]


@pytest.mark.parametrize(
    ("row", "column", "cell", "why"),
    [
        (1, 3, "two", "the row of 'a' is not 3 numbers"),
        (1, 3, "nan", "a and c are nan apart"),
        (2, 3, "4", "b and c are 4.0 apart, and 3.0 the other way"),
        (0, 2, "a", "3 rows for 2 different ids"),
        (2, 0, "d", "no row of 'b'"),
        (2, 2, "1", "b is 1.0 from itself, expected 0. Of a table of similarities"),
    ],
)
def test_a_table_that_is_none_is_told(tmp_path, row, column, cell, why):
    lines = [list(line) for line in GOOD]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(map(",".join, lines)))
    assert read_dissimilarities(path).stimuli == ("a", "b", "c")
    lines[row][column] = cell
    path.write_text("\n".join(map(",".join, lines)))
    with pytest.raises(UserError, match=rf"t\.csv: {why}"):
        read_dissimilarities(path)


@pytest.mark.parametrize("text", ["", "a,b\n", "x,a,b\na,0,1\nb,1,0\n"])
def test_a_table_of_too_little_is_told(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="expected a square table of three stimuli or more"):
        read_dissimilarities(path)


@pytest.mark.parametrize(
    ("flags", "status", "why"),
    [
        (["--path=image/hidden/mlp_acts"], 1, "Did you mean 'image/hidden/mlp_act'"),
        ([f"--path={PATH}", "--facets=photos"], 1, "Did you mean 'photo'"),
        ([f"--path={PATH}", "--facets=photo"], 2, "photo is nothing to compare"),
        ([f"--path={PATH}", "--permutations=0"], 2, "--permutations=0 is not positive"),
        ([f"--path={PATH}", "--seed=-1"], 2, "--seed=-1: expected 0 or more"),
        ([f"--path={PATH}", "--facets=photo, photo"], 2, "photo is nothing to compare"),
        ([f"--path={PATH}", "--given=none.csv"], 1, "none.csv: cannot be read"),
        ([f"--path={PATH}", "--facets=photo,scrambled"], 1, "3 stimuli such as x leave all units"),
    ],
)
def test_what_cannot_be_compared_is_an_error(rsa, flags, status, why):
    code, _, err = rsa(*flags)
    assert code == status
    assert why in err


def test_too_few_shared_stimuli(rsa, tmp_path):
    ids = ["e1", "e2", "e99"]
    given = write_table(tmp_path / "t.csv", ids, np.zeros((3, 3)))
    code, _, err = rsa(f"--path={PATH}", given, "--facets=photo")
    assert code == 1
    assert "three stimuli must be known to both sides" in err
    assert "photo and t.csv: 2" in err


def test_a_facet_without_the_stimuli_of_the_table_is_left_out(rsa, tmp_path):
    given = write_table(tmp_path / "t.csv", ["e0", "e1", "e2"], 3 - 3 * np.eye(3) + UNEVEN)
    code, found, _ = rsa(f"--path={PATH}", given)
    assert code == 0
    assert [(one["first"], one["second"]) for one in found["compared"]] == [
        ("photo", "t.csv"),
        ("photo", "edges"),
    ]


def test_a_table_that_tells_nothing_apart_correlates_with_nothing(rsa, tmp_path):
    given = write_table(tmp_path / "t.csv", ["e3", "e4", "e5"], 1 - np.eye(3))
    code, _, err = rsa(f"--path={PATH}", given)
    assert code == 1
    assert "t.csv: all 3 stimuli that photo and t.csv share are equally far" in err
