import contextlib
import io
import re

import pytest

from clipjax.core.progress import Progress, format_seconds


class Terminal(io.TextIOWrapper):
    mode = "w"

    def isatty(self):
        return True


@pytest.fixture
def log(tmp_path):
    with open(tmp_path / "log", "w+") as file:
        yield file


@pytest.fixture
def terminal(tmp_path):
    with Terminal(open(tmp_path / "terminal", "w+b"), newline="") as file:
        yield file


def text(file):
    file.seek(0)
    return file.read()


def test_a_log_gets_one_plain_line_at_the_end(log):
    with Progress("rendering", 1500, "emoji", stream=log) as progress:
        for _ in range(1500):
            progress.advance()
    assert re.fullmatch(r"rendering: 1,500/1,500 emoji  [\d,.e+]+/s  in [\d.]+ s\n", text(log))


def test_a_log_line_between_has_the_rate_and_the_time_left(log):
    progress = Progress("rendering", 4, stream=log, log_seconds=0.0)
    progress.advance(2, detail="smileys")
    line = r"rendering: 2/4 samples  [\d.,e+]+/s  ETA [\d.]+ s  smileys\n"
    assert re.fullmatch(line, text(log))


def test_without_a_total_there_is_no_time_left(log):
    Progress("reading", None, stream=log, log_seconds=0.0).advance(3)
    assert text(log).startswith("reading: 3 samples")
    assert "ETA" not in text(log)


def test_a_log_is_not_flooded(log):
    with Progress("rendering", 10_000, stream=log, log_seconds=3600.0) as progress:
        for _ in range(10_000):
            progress.advance()
        assert text(log) == ""


def test_a_terminal_has_one_line_that_is_rewritten(terminal):
    progress = Progress("rendering", 2, stream=terminal)
    with progress:
        progress.advance(2)
    assert text(terminal).count("\n") == 1
    assert text(terminal).startswith("\r")


def test_an_error_is_not_reported_as_the_end_of_the_work(log, terminal):
    for stream in (log, terminal):
        with contextlib.suppress(RuntimeError), Progress("rendering", 2, stream=stream):
            raise RuntimeError
    assert text(log) == ""
    assert text(terminal) == "\n"  # the error begins on a line of its own


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
    ],
)
def test_a_duration_never_says_60_seconds(seconds, said):
    assert format_seconds(seconds) == said


def test_quick_work_is_not_worth_a_word(log, terminal, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("clipjax.core.progress.time.monotonic", lambda: now[0])
    for stream in (log, terminal):
        now[0] = 0.0
        with Progress("opening", 3, "shards", quiet_seconds=2.0, stream=stream) as progress:
            now[0] = 1.9
            progress.advance()
        assert text(stream) == ""
        with (
            contextlib.suppress(KeyboardInterrupt),
            Progress("opening", 3, "shards", quiet_seconds=2.0, stream=stream),
        ):
            raise KeyboardInterrupt
        assert text(stream) == ""
    now[0] = 0.0
    with Progress("opening", 3, "shards", quiet_seconds=2.0, stream=log) as progress:
        now[0] = 11.0
        progress.advance()
    assert [line.split("  ")[0] for line in text(log).splitlines()] == [
        "opening: 1/3 shards",
        "opening: 1/3 shards",
    ]
