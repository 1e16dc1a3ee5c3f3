"""Processes that only hold lifelines; what happens to one, the others must notice and name."""

import concurrent.futures
import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.serial]

CHILD = """
import ctypes, os, socket, sys, threading, time
from clipjax.core.lifeline import Lifeline

me, count, limit = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
def open_end(peer):
    try:
        return peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


lifeline = Lifeline(me, count)
if me == 0:
    print(*lifeline.listen("127.0.0.1"), flush=True)
else:
    port, token = sys.stdin.readline().split()
    lifeline.connect("127.0.0.1", int(port), token)
lifeline.start()
while me == 0 and len(lifeline._peers) < count - 1:
    time.sleep(0.01)
lifeline.phase("input", limit, step=7)
print("ready", flush=True)
for line in sys.stdin:
    match line.strip():
        case "close":
            lifeline.close()
            sys.exit(0)
        case "fail":
            lifeline.fail("no such shard")
            # The others are gone before this one is: their end must not become its cause.
            while me == 0 and any(map(open_end, lifeline._peers.values())):
                time.sleep(0.01)
            os._exit(1)
        case "sleep":
            time.sleep(1000)
        case "lock":
            ctypes.PyDLL(None).sleep(1000)
        case "step":
            lifeline.phase("step", limit, step=7)
        case "hear":
            while (
                any(report.phase == "start" for report in lifeline._reports.values())
                if me == 0
                else lifeline._zero_heard_at == float("inf")
            ):
                time.sleep(0.01)
            print("heard", flush=True)
threading.Event().wait()
"""
# "A few seconds" on a machine that does other things too.
PATIENCE_SECONDS = 30
LONG, SHORT = 600, 4


class Run:
    """Processes with lifelines, all in phase 'input' of step 7."""

    def __init__(self, env, count, limit_seconds):
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, str(i), str(count), str(limit_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=env,
            )
            for i in range(count)
        ]
        self.address = self.processes[0].stdout.readline()
        for i in range(1, count):
            self._write(i, self.address)

    def name(self, index):
        """How the others call a process."""
        return f"process {index} (pid {self.processes[index].pid} on {socket.gethostname()})"

    def wait_until_ready(self):
        for process in self.processes:
            assert process.stdout.readline() == "ready\n"

    def wait_until_heard(self):
        """Until process 0 has had a report of each, and each a sign of process 0."""
        for index, process in enumerate(self.processes):
            self.tell(index, "hear")
            assert process.stdout.readline() == "heard\n"

    def tell(self, index, word):
        self._write(index, word + "\n")

    def end(self, index):
        """(exit status, standard error) of a process."""
        process = self.processes[index]
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, err

    def _write(self, index, text):
        self.processes[index].stdin.write(text)
        self.processes[index].stdin.flush()


@pytest.fixture(scope="module")
def start(make_child_env):
    with contextlib.ExitStack() as stack:

        def start(count, limit_seconds=LONG):
            run = Run(make_child_env(), count, limit_seconds)
            for process in run.processes:
                stack.callback(process.__exit__, None, None, None)
                stack.callback(process.kill)
                # So that no read of its output waits for ever.
                guard = threading.Timer(2 * PATIENCE_SECONDS, process.kill)
                guard.start()
                stack.callback(guard.cancel)
            run.wait_until_ready()
            return run

        yield start


def stuck(start, victim):
    """The others wait in the step (a collective) that the stuck one has not reached."""
    run = start(3, SHORT)
    for other in {0, 1, 2} - {victim}:
        run.tell(other, "step")
    return run, [run.end(index) for index in range(3)]


def stopped(start):
    run = start(3, SHORT)
    run.wait_until_heard()
    run.processes[1].send_signal(signal.SIGSTOP)
    for other in (0, 2):
        run.tell(other, "step")
    return run, {survivor: run.end(survivor) for survivor in (0, 2)}


def stopped_0(start):
    run = start(2, 8)
    run.wait_until_heard()
    run.processes[0].send_signal(signal.SIGSTOP)
    return run, run.end(1)


def alone(start):
    run = start(1, SHORT)
    return run, run.end(0)


def asleep(start, victim):
    run = start(2, SHORT)
    run.tell(victim, "sleep")
    run.tell(1 - victim, "step")
    return run, [run.end(index) for index in range(2)]


def locked(start, count):
    run = start(count, SHORT)
    if count > 1:
        run.wait_until_heard()
    time.sleep(2)  # a beat sets the timer
    run.tell(count - 1, "lock")
    if count > 1:
        run.tell(0, "step")
    return run, {index: run.end(index) for index in sorted({0, count - 1})}


WAITS = [(stuck, 0), (stuck, 1), (stopped,), (stopped_0,), (alone,)]
WAITS += [(asleep, 0), (asleep, 1), (locked, 1), (locked, 2)]


@pytest.fixture(scope="module")
def past_limits(start):
    """What came of everything that waits for a limit: (run, ends). Four wait at a time.

    More processes that start at once would be late for their limits on a slow machine.
    """
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        came = {case: pool.submit(case[0], start, *case[1:]) for case in WAITS}
    return lambda *case: came[case].result()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_which_name_it_and_ask_to_be_run_again(start, victim):
    run = start(3)
    run.processes[victim].kill()
    for survivor in {0, 1, 2} - {victim}:
        status, err = run.end(survivor)
        assert status == 75, err
        assert f"{run.name(victim)} died" in err
        assert f"(process {survivor})" in err
        assert len(err.splitlines()) == 1


def test_the_death_of_a_process_is_told_with_its_phase_and_step(start):
    run = start(2)
    run.wait_until_heard()
    run.processes[1].kill()
    assert f"{run.name(1)} died in phase 'input' of step 7" in run.end(0)[1]


@pytest.mark.parametrize("victim", [0, 2])
def test_a_failure_ends_the_others_with_its_message_and_status_1(start, victim):
    run = start(3)
    run.tell(victim, "fail")
    for survivor in {0, 1, 2} - {victim}:
        status, err = run.end(survivor)
        assert status == 1, err
        assert f"{run.name(victim)} failed: no such shard" in err
    status, err = run.end(victim)
    assert status == 1, err
    assert "died" not in err


@pytest.mark.parametrize("victim", [0, 1])
def test_of_processes_past_their_limit_the_one_that_the_others_wait_for_is_named(
    past_limits, victim
):
    run, ends = past_limits(stuck, victim)
    for status, err in ends:
        assert status == 75, err
        last = err.splitlines()[-1]
        assert f"{run.name(victim)}: no progress for" in last
        assert "in phase 'input' of step 7 (limit 4 s)" in last
        assert all(
            f"{run.name(other)}: no progress" not in last for other in range(3) if other != victim
        )


def test_a_stopped_process_is_named_once_its_limit_is_over(past_limits):
    run, ends = past_limits(stopped)
    for survivor, (status, err) in ends.items():
        assert status == 75, err
        assert f"{run.name(1)}: no progress for" in err
        assert "'input' of step 7" in err
        assert ("did not come: it is stopped" in err) == (survivor == 0)


def test_a_stopped_process_0_is_missed_by_the_others(past_limits):
    run, (status, err) = past_limits(stopped_0)
    assert status == 75, err
    assert f"{run.name(0)} has not answered" in err


def test_a_single_process_ends_itself_when_it_is_stuck(past_limits):
    _, (status, err) = past_limits(alone)
    assert status == 75
    assert "no progress" in err
    assert "thread MainThread" in err  # where it was stuck


@pytest.mark.parametrize("victim", [0, 1])
def test_process_0_prints_where_the_stuck_one_is(past_limits, victim):
    run, ends = past_limits(asleep, victim)
    errors = [err for _, err in ends]
    assert f"stacks of {run.name(victim)}:\n  thread MainThread\n" in errors[0]
    assert 'File "<string>", line' in errors[0]
    assert "lifeline" not in errors[0]
    assert "stacks" not in errors[1]


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_holds_the_lock_of_python_shows_its_stacks_and_ends(past_limits, count):
    """None of its threads can tell: it cannot be asked, and does not hear that the run ends."""
    run, ends = past_limits(locked, count)
    status, err = ends[count - 1]
    assert status == 1
    assert "Timeout" in err
    assert "most recent call first" in err
    if count > 1:
        status, err = ends[0]
        assert status == 75
        assert f"{run.name(1)}: no progress" in err
        assert "holds Python's lock" in err


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)], ids=["0 first", "0 last"])
def test_after_a_clean_close_no_end_is_taken_for_a_death(start, order):
    run = start(3)
    for index in order:
        run.tell(index, "close")
        assert run.end(index) == (0, "")


STRANGERS = {
    "wrong token": b'{"token": "x", "process": 1}\n{"fatal": "stop", "status": 1}\n',
    "no token": b'{"fatal": "stop", "status": 1}\n',
    "token that is not ASCII": '{"token": "é", "process": 1}\n'.encode(),
    "not JSON": b"GET / HTTP/1.1\r\n\r\n",
    "a list": b"[1]\n",
    "not text": b"\xff\xfe\n",
    "a line without end": b"x" * 10_000,
}


def test_strangers_are_refused_and_change_nothing(start):
    run = start(2)
    port = int(run.address.split()[0])
    for what, content in STRANGERS.items():
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as stranger:
            stranger.sendall(content)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b"", what
    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS).close()
    for index in (1, 0):
        run.tell(index, "close")
        assert run.end(index) == (0, "")
