"""What `clipjax bench evaluate` measures with, and how it counts."""

import importlib.util
import json

import numpy as np
import pytest

from clipjax.cli import bench_evaluate
from clipjax.cli.bench_evaluate import evaluate_figures
from clipjax.cli.bench_evaluate_data import CLASS_NAMES, TEMPLATES, write_benchmark
from clipjax.config import UserError
from clipjax.data.sources.tar_shards import TarShards

GIVEN = {"preset": "ViT-B-32", "kind": "square256", "samples": 6, "rounds": 3, "threads": 1}


def test_prompts_are_as_many_and_as_long_as_is_usual():
    assert len(set(TEMPLATES)) == 80
    assert all(template.count("{c}") == 1 for template in TEMPLATES)
    assert len(set(CLASS_NAMES)) == 50
    words = [len(t.replace("{c}", c).split()) for t in TEMPLATES for c in CLASS_NAMES]
    assert 6 < np.mean(words) < 9


@pytest.fixture
def photographs():
    try:
        from clipjax.data.photos import load_photos

        load_photos()
    except UserError:
        pytest.skip("no photographs on this machine")


def test_photographs_lie_as_clip_benchmark_wants_them(photographs, tmp_path):
    write_benchmark(tmp_path, kind="square256", samples=6)
    assert (tmp_path / "test" / "nshards.txt").read_text() == "1\n"
    assert (tmp_path / "classnames.txt").read_text().splitlines() == list(CLASS_NAMES)
    name = "zeroshot_classification_templates.txt"
    assert (tmp_path / name).read_text().splitlines() == list(TEMPLATES)
    source = TarShards([str(tmp_path / "test" / "0.tar")], needs=("cls",))
    assert [bytes(source[i]["cls"]) for i in range(len(source))] == [b"%d" % i for i in range(6)]
    assert all(source[i]["image"][:2] == b"\xff\xd8" for i in range(6))


class FakeWorker:
    """Answers as a worker; one picture of theirs is another one."""

    process_id = 0

    def __init__(self, name, command, options, threads):
        self.name, self.options = name, options
        assert threads == 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, order):
        ours = self.name == "clipjax"
        return {
            "report": {"version": f"{self.name} 1"},
            "pixels": {"pixels": [1, 2, 3] if ours else [1, 9, 3]},
            "embeds": {"images": [[1.0, 0.5 if ours else 0.25]], "classes": [[1.0]]},
        }[order]


@pytest.fixture
def faked(monkeypatch, photographs):
    """Ours takes 100 to 300 us, the rival twice to four times that."""

    def take_turns(workers, rounds, order, unit):
        names = [worker.name for worker in workers]
        return [
            {
                f"{name}_us": 100.0 * (number + 1) * (1 if name == "clipjax" else number + 2)
                for name in names
            }
            | {f"{name}_images_per_second": 10.0 for name in names}
            for number in range(rounds)
        ]

    monkeypatch.setattr(bench_evaluate, "Worker", FakeWorker)
    monkeypatch.setattr(bench_evaluate, "take_turns", take_turns)
    find = importlib.util.find_spec
    rival = importlib.machinery.ModuleSpec("open_clip", None, origin="somewhere/__init__.py")

    def find_rivals(name):
        # Whether there are other photographs is asked in the same way.
        return find(name) if name in ("skimage", "sklearn") else rival

    monkeypatch.setattr(importlib.util, "find_spec", find_rivals)


def test_the_ratio_is_the_median_of_the_rounds(faked, capsys):
    figures = evaluate_figures(rival="clip_benchmark", **GIVEN)
    assert list(figures["measured"]) == ["images", "model"]
    for found in figures["measured"].values():
        assert found["ratio"] == 3.0
        assert found["cpu_us"] == {"clipjax": 200.0, "clip_benchmark": 600.0}
        assert found["ratio_interval"][0] >= 2.0
        assert found["ratio_interval"][1] <= 4.0
    assert (figures["other_pixels"], figures["pictures"]) == (1, 3)
    assert figures["largest_difference"] == 0.25
    json.dumps(figures)
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("pictures to logits   clip"))
    assert row.split()[-4:] == ["clipjax", "200", "10.0", "3.00"]
    assert "pictures with other pixels: 1 of 3" in out


def test_class_embeddings_need_no_photographs(faked, monkeypatch, capsys):
    monkeypatch.delattr(bench_evaluate, "write_benchmark")
    figures = evaluate_figures(rival="open_clip", **GIVEN)
    assert list(figures["measured"]) == ["classes"]
    assert figures["largest_difference"] == 0.0
    assert "pictures" not in capsys.readouterr().out


def test_a_missing_rival_names_the_extra(monkeypatch, capsys):
    from clipjax.cli.main import main

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: None if name == "clip_benchmark" else find("json"),
    )
    with pytest.raises(SystemExit) as ended:
        main(["bench", "evaluate"])
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert "clip_benchmark is not installed" in err
    assert "clipjax[parity]" in err
    with pytest.raises(SystemExit) as ended:
        main(["bench", "evaluate", "--vs=open_clip", "--classes=51"])
    assert ended.value.code == 2
    assert "--classes=51: there are names for 50" in capsys.readouterr().err
