import os
import subprocess
import sys
import time

import pytest

from clipjax.cli.cpu_time import tree_cpu_seconds, wait_until_quiet

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs Linux")

BURN = """
import os, time

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass

def child(work, reap):
    process = os.fork()
    if process:
        if reap:
            os.waitpid(process, 0)
        return process
    work()
    os._exit(0)
"""
# How 0.3 s are used, apart from what Python needs to start.
TREES = {
    "itself": "burn(0.3)",
    "a live child": "child(lambda: (burn(0.3), time.sleep(60)), reap=False)",
    "a zombie": "child(lambda: burn(0.3), reap=False)",
    "a reaped child": "child(lambda: burn(0.3), reap=True)",
    "a live grandchild": (
        "child(lambda: (child(lambda: (burn(0.3), time.sleep(60)), False), time.sleep(60)), False)"
    ),
    "a reaped grandchild of a live child": (
        "child(lambda: (child(lambda: burn(0.3), True), time.sleep(60)), False)"
    ),
    "reaped by a reaped child": "child(lambda: child(lambda: burn(0.3), True), True)",
    "a thread": "import threading; threading.Thread(target=burn, args=(0.3,)).start()",
    "two children": "child(lambda: burn(0.2), True); child(lambda: burn(0.1), False)",
    "a name with brackets": (
        "open('/proc/self/comm', 'w').write('a) R 1 (b'); child(lambda: burn(0.3), True)"
    ),
}


@pytest.fixture
def tree():
    """Starts a program that waits for a line, then runs code, then sleeps; gives its id."""
    started = []

    def start(code):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{BURN}\nprint('ready', flush=True)\ninput()\n{code}\n"
             "print('done', flush=True)\ntime.sleep(60)"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        os.killpg(process.pid, 9)
        process.communicate()


@pytest.mark.parametrize("code", TREES.values(), ids=TREES.keys())
def test_the_whole_tree_is_counted_once(tree, code):
    process = tree(code)
    before, _ = wait_until_quiet(process.pid)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"
    after, _ = wait_until_quiet(process.pid)
    # Ticks of 0.01 s for each process; counting anything twice would give 0.6.
    assert 0.26 <= after - before <= 0.42


def test_other_processes_are_not_counted(tree):
    process, other = tree("pass"), tree("burn(0.3)")
    before, _ = wait_until_quiet(process.pid)
    other.stdin.write("\n")
    other.stdin.flush()
    other.stdout.readline()
    assert tree_cpu_seconds(process.pid) - before <= 0.02


def test_waiting_goes_on_through_short_rests_and_knows_when_they_ended(tree):
    process = tree("[(burn(0.05), time.sleep(0.1)) for _ in range(5)]")
    process.stdin.write("\n")
    process.stdin.flush()
    seconds, since = wait_until_quiet(process.pid)
    now = time.perf_counter()
    assert process.stdout.readline() == "done\n"
    assert tree_cpu_seconds(process.pid) - seconds <= 0.01
    assert now - since >= 0.3


def test_a_process_that_works_on_is_not_waited_for_forever(tree):
    process = tree("burn(60)")
    process.stdin.write("\n")
    process.stdin.flush()
    with pytest.raises(TimeoutError, match=r"still working after 0\.5 s"):
        wait_until_quiet(process.pid, most_seconds=0.5)


def test_a_process_that_is_not_there():
    with pytest.raises(ProcessLookupError, match="no process 4194305"):  # beyond the largest id
        tree_cpu_seconds(4194305)
