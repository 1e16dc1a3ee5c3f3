# ruff: noqa: RUF001 (characters that look like others are the point)
import json
import sys

import numpy as np
import pytest

from clipjax.cli import bench_tokenizer
from clipjax.cli.bench_captions import (
    KINDS,
    hard_captions,
    natural_captions,
    prepare,
    tokenizer_orders,
)
from clipjax.cli.bench_tokenizer import take_turns, tokenizer_figures
from clipjax.cli.bench_turns import Worker
from clipjax.cli.main import main
from clipjax.config import UserError

VOCABULARY = "title\nh e\nt he\ne d</w>\n"


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_captions_depend_on_the_seed_alone(make):
    assert make(300, 3) == make(300, 3)
    assert make(300, 3) != make(300, 4)
    assert [len(make(count, 3)) for count in (1, 2, 300)] == [1, 2, 300]


def test_natural_captions_are_english_of_ten_words_by_zipfs_law():
    captions = natural_captions(4000, 1)
    lengths = [len(caption.split()) for caption in captions]
    assert min(lengths) >= 1
    assert 9.8 < np.mean(lengths) < 10.2
    # Some need repair, as on the web; most do not.
    assert 0.01 < np.mean([not caption.isascii() for caption in captions]) < 0.05
    words = [w.strip(".,").lower() for caption in captions for w in caption.split()]
    counts = sorted((words.count(word) for word in ("the", "a", "is", "of")), reverse=True)
    assert counts[0] > 1.5 * counts[2]


def test_hard_captions_hold_what_breaks_tokenizers():
    text = "\n".join(hard_captions(2000, 1))
    for part in (
        "&amp;",
        "&amp;amp;",
        "e\u0301",
        "\u0345",
        "😀",
        "漢字",
        "עברית",
        "\u200b",
        "\x00",
    ):
        assert part in text, ascii(part)
    for part in ("<start_of_text>", "’", "â€", "ﬁ", "Ｆ", "\t", "\r\n", "\ud800", "w" * 300):
        assert part in text, ascii(part)
    assert {"", " ", "&nbsp;"} <= set(hard_captions(200, 1))


def test_our_worker_tells_ids_and_times_new_captions_in_every_round(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_text(VOCABULARY)
    orders = prepare({"count": 20, "context_length": 16, "vocabulary": str(path)})
    rows = orders["natural"]()["ids"]
    assert len(rows) == 20
    assert all(row[0] == 515 and row[-1] == 516 and len(row) <= 16 for row in rows)
    assert json.dumps(rows)
    assert orders["hard"]()["ids"] != rows
    assert "clipjax" in orders["report"]()["version"]
    assert set(orders["round"]()) == {f"{k}_{u}" for k in KINDS for u in ("cpu", "seconds")}


def test_every_round_has_captions_of_its_own():
    seen = []

    def tokenize(captions):
        seen.append(captions)
        return np.ones((len(captions), 4), np.int32)

    orders = tokenizer_orders(tokenize, {"count": 300}, "none")
    for _ in range(3):
        orders["round"]()
    assert len(seen) == 6
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


class FakeWorker(Worker):
    def __init__(self, name, log):
        self.name, self.log = name, log

    def ask(self, order):
        assert order == "round"
        self.log.append(self.name)
        return {"natural_cpu": len(self.log)}


def test_who_begins_changes_from_round_to_round():
    log = []
    rows = take_turns((FakeWorker("a", log), FakeWorker("b", log)), 3)
    assert log == ["a", "b", "b", "a", "a", "b"]
    assert [(row["a_natural_cpu"], row["b_natural_cpu"]) for row in rows] == [
        (1, 2),
        (4, 3),
        (5, 6),
    ]
    assert [row["first"] for row in rows] == ["a", "b", "a"]


def test_a_missing_rival_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "tokenizer", "--vs", "open_clip"])
    assert ended.value.code == 1
    assert "pip install 'clipjax[parity]'" in capsys.readouterr().err


RIVAL = """
import time
import numpy as np
from clipjax.cli import bench_captions
from clipjax.cli.bench_turns import serve

def prepare(options):
    orders = dict(bench_captions.prepare(options))
    mine, round_ = orders["natural"], orders["round"]

    def other():
        ids = mine()["ids"]
        ids[3][1] += 1
        return {"ids": ids}

    def slower():
        answer = round_()
        return answer | {key: 3 * value for key, value in answer.items() if key.endswith("cpu")}

    return orders | {"natural": other, "round": slower}

serve(prepare)
"""


@pytest.mark.slow
@pytest.mark.serial
def test_differences_are_counted_and_shown_and_the_ratio_is_theirs_over_ours(
    tmp_path, monkeypatch, capsys
):
    """A rival that is ours, three times as slow, with another id in one caption."""
    pytest.importorskip("ftfy")
    script, vocabulary = tmp_path / "rival.py", tmp_path / "merges.txt"
    script.write_text(RIVAL)
    vocabulary.write_text(VOCABULARY)
    monkeypatch.setattr(bench_tokenizer, "_find", lambda rival: (script, vocabulary))
    figures = tokenizer_figures(rival="other", rounds=3, count=200)
    assert figures["differences"] == 1
    assert figures["compared"] == 400
    (shown,) = figures["first_differences"]
    assert shown["caption"] == ascii(natural_captions(200, 0)[3])
    assert shown["other"][1] == shown["clipjax"][1] + 1
    assert 1.5 < figures["ratio"] < 6
    each = figures["microseconds_per_caption"]["natural"]
    assert 1.5 < each["other"] / each["clipjax"] < 6
    assert "captions with other ids: 1 of 400" in capsys.readouterr().out
    json.dumps(figures)


@pytest.mark.skipif(hasattr(sys, "getwindowsversion"), reason="needs CPU affinity")
def test_a_machine_that_cannot_pin_is_told(monkeypatch):
    monkeypatch.setattr(bench_tokenizer, "_find", lambda rival: (None, None))
    monkeypatch.delattr("os.sched_getaffinity")
    with pytest.raises(UserError, match="needs Linux"):
        tokenizer_figures(rival="open_clip", rounds=1, count=1)
