"""A process that raises, dies or hangs ends the others, with a message that names it.

Without it a Python error in one process leaves the others in a collective for minutes, and one that
is alive but stuck is never detected. Every process holds a TCP connection to process 0 and says
each second how many phases (input, step, save, ...) it has begun. All processes go through the same
phases, so whoever has begun the fewest is the one the others wait for. Process 0 asks it for the
stacks of its threads and prints them.
"""

import dataclasses
import faulthandler
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from typing import Any

FAILED, TRY_AGAIN = 1, 75
_BEAT_SECONDS = 1.0
_CONNECT_SECONDS = 30.0
_STACKS_SECONDS, _MOST_STACKS, _MOST_STACK_CHARACTERS = 3.0, 4, 50_000
# A thread that holds the lock of Python for so long after the limit keeps it; process 0 has then
# looked (within a beat of the limit) and has waited for stacks.
_LOCKED_SECONDS = 5.0


@dataclasses.dataclass
class _Report:
    """What a process last said of itself."""

    where: str = ""
    phases: int = 0
    phase: str = "start"
    step: int = 0
    age_seconds: float = 0.0
    limit_seconds: float = float("inf")
    heard_at: float = dataclasses.field(default_factory=time.monotonic)
    closed: bool = False
    stacks: str = ""

    def overdue(self, now: float) -> bool:
        return not self.closed and self.age_seconds + now - self.heard_at > self.limit_seconds


class Lifeline:
    """Watches this process, and all others when there are several.

    Args:
        process: index of this process.
        num_processes: of the run.
    """

    def __init__(self, process: int, num_processes: int):
        self.process, self.num_processes = process, num_processes
        self._me = _Report(where=f"pid {os.getpid()} on {socket.gethostname()}")
        self._changed_at = time.monotonic()
        self._lock = threading.Lock()
        self._reports: dict[int, _Report] = {process: self._me}
        self._peers: dict[int, socket.socket] = {}
        self._server: socket.socket | None = None
        self._to_zero: socket.socket | None = None
        self._token = ""
        self._closing = threading.Event()
        self._ending = False

    def listen(self, host: str) -> tuple[int, str]:
        """Opens process 0's end; returns the port and the token that the others must show."""
        self._token = secrets.token_hex(16)
        self._server = socket.create_server((host, 0), backlog=self.num_processes)
        threading.Thread(target=self._accept, name="lifeline-accept", daemon=True).start()
        return self._server.getsockname()[1], self._token

    def connect(self, host: str, port: int, token: str) -> None:
        """Opens the end of another process."""
        self._to_zero = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
        self._to_zero.settimeout(None)
        hello = {"token": token, "process": self.process, "where": self._me.where}
        self._send(self._to_zero, hello)
        threading.Thread(target=self._obey, name="lifeline-obey", daemon=True).start()

    def start(self) -> None:
        """Starts to watch and to report."""
        threading.Thread(target=self._beat, name="lifeline-beat", daemon=True).start()

    def phase(self, name: str, limit_seconds: float, step: int = 0) -> None:
        """Says that a new phase begins, and how long it may take."""
        with self._lock:
            self._me.phases += 1
            self._me.phase, self._me.step = name, step
            self._me.limit_seconds = limit_seconds
            self._changed_at = time.monotonic()

    def fail(self, message: str, status: int = FAILED) -> None:
        """Tells the others that this process has failed; returns when they have been told."""
        what = f"process {self.process} ({self._me.where}) failed: {message}"
        if self.process == 0:
            with self._lock:
                self._ending = True
            self._broadcast({"fatal": what, "status": status})
        elif self._to_zero is not None:
            self._send(self._to_zero, {"fatal": what, "status": status})

    def close(self) -> None:
        """Says goodbye: from now on the end of this process is no death."""
        with self._lock:
            self._closing.set()
            faulthandler.cancel_dump_traceback_later()
        if self._to_zero is not None:
            self._send(self._to_zero, {"bye": True})
        else:
            self._broadcast({"bye": True})
        with self._lock:
            self._me.closed = True
            self._me.limit_seconds = float("inf")

    # The rest runs in threads of its own.

    def _beat(self) -> None:
        while not self._closing.is_set():
            time.sleep(_BEAT_SECONDS)
            now = time.monotonic()
            with self._lock:
                self._me.age_seconds = now - self._changed_at
                self._me.heard_at = now
                mine = dataclasses.asdict(self._me)
                self._guard_lock()
            if self._to_zero is not None:
                # What is said by hello, bye (which no report undoes) and on request.
                for name in ("where", "heard_at", "closed", "stacks"):
                    del mine[name]
                self._send(self._to_zero, {"report": mine})
            else:
                self._broadcast({"ping": True})
                self._look_for_stuck(now)

    def _guard_lock(self) -> None:
        """Has a thread of C end this process where none of Python's comes to run any more."""
        left = self._me.limit_seconds - self._me.age_seconds
        seconds = max(left, 0) + _LOCKED_SECONDS
        if self._closing.is_set() or seconds > threading.TIMEOUT_MAX:
            return
        # File descriptor 2, since sys.stderr may be replaced by something that has none.
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)

    def _look_for_stuck(self, now: float) -> None:
        with self._lock:
            reports = dict(self._reports)
            if self._ending or not any(report.overdue(now) for report in reports.values()):
                return
            self._ending = True  # the stuck one may die while its stacks are waited for
        limit = min(r.limit_seconds for r in reports.values() if r.overdue(now))
        fewest = min(report.phases for report in reports.values() if not report.closed)
        stuck = {p: r for p, r in reports.items() if r.phases == fewest and not r.closed}
        names = "; ".join(
            f"process {p} ({r.where}): no progress for {r.age_seconds + now - r.heard_at:.0f} s in "
            f"phase {r.phase!r} of step {r.step}"
            for p, r in sorted(stuck.items())
        )
        self._print_stacks(dict(sorted(stuck.items())[:_MOST_STACKS]))
        self._end(f"{names} (limit {limit:.0f} s)", TRY_AGAIN)

    def _print_stacks(self, stuck: dict[int, _Report]) -> None:
        """Asks processes for the stacks of their threads and prints what comes in time."""
        for process, report in stuck.items():
            if process == self.process:
                report.stacks = _stacks()
            elif process in self._peers:
                self._send(self._peers[process], {"stacks": True})
        end = time.monotonic() + _STACKS_SECONDS
        while not all(r.stacks for r in stuck.values()) and time.monotonic() < end:
            time.sleep(0.01)
        for process, report in stuck.items():
            stacks = report.stacks or "did not come: it is stopped, or holds Python's lock\n"
            print(f"stacks of process {process} ({report.where}):\n{stacks}", file=sys.stderr)

    def _accept(self) -> None:
        assert self._server is not None
        while not self._closing.is_set():
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(
                target=self._hear, args=(peer,), name="lifeline-hear", daemon=True
            ).start()

    def _hear(self, peer: socket.socket) -> None:
        lines = peer.makefile("r", encoding="utf-8")
        try:
            hello = json.loads(lines.readline(4096))
            shown = str(hello["token"]).encode()
            if not secrets.compare_digest(shown, self._token.encode()):
                return peer.close()
            process = int(hello["process"])
        except (ValueError, KeyError, TypeError, OSError):
            return peer.close()
        with self._lock:
            self._peers[process] = peer
            report = self._reports[process] = _Report(where=str(hello.get("where", "")))
        self._send(peer, {"where": self._me.where})
        try:
            for line in lines:
                message = json.loads(line)
                if "fatal" in message:
                    self._die(message["fatal"], message["status"])
                with self._lock:
                    if "bye" in message:
                        report.closed = True
                    report.stacks = message.get("stacks", report.stacks)
                    for name, value in message.get("report", {}).items():
                        setattr(report, name, value)
                    report.heard_at = time.monotonic()
        except (OSError, ValueError):
            pass
        if not report.closed and not self._closing.is_set():
            self._look_for_stuck(time.monotonic())  # who hangs for long enough ends itself
            self._die(
                f"process {process} ({report.where}) died in phase {report.phase!r} of step "
                f"{report.step} (its connection broke)",
                TRY_AGAIN,
            )
        return None

    def _obey(self) -> None:
        assert self._to_zero is not None
        lines = self._to_zero.makefile("r", encoding="utf-8")
        threading.Thread(target=self._miss_zero, name="lifeline-miss", daemon=True).start()
        try:
            for line in lines:
                self._zero_heard_at = time.monotonic()
                message = json.loads(line)
                if "fatal" in message:
                    self._exit(message["fatal"], message["status"])
                if "stacks" in message:
                    self._send(self._to_zero, {"stacks": _stacks()})
                self._zero_where = message.get("where", self._zero_where)
                if "bye" in message:
                    self._zero_heard_at = float("inf")
                    return
        except (OSError, ValueError):
            pass
        if not self._closing.is_set():
            self._exit(f"process 0 ({self._zero_where}) died (its connection broke)", TRY_AGAIN)

    _zero_heard_at = float("inf")
    _zero_where = ""

    def _miss_zero(self) -> None:
        while not self._closing.is_set():
            time.sleep(_BEAT_SECONDS)
            silent = time.monotonic() - self._zero_heard_at
            if silent > max(self._me.limit_seconds, 10 * _BEAT_SECONDS):
                what = f"process 0 ({self._zero_where}) has not answered for {silent:.0f} s"
                self._exit(what, TRY_AGAIN)

    def _die(self, message: str, status: int) -> None:
        with self._lock:
            if self._ending:  # the others end because they were told to: that is no new cause
                return
            self._ending = True
        self._end(message, status)

    def _end(self, message: str, status: int) -> None:
        self._broadcast({"fatal": message, "status": status})
        self._exit(message, status)

    def _exit(self, message: str, status: int) -> None:
        if self._closing.is_set():
            return
        where = f" (process {self.process})" if self.num_processes > 1 else ""
        print(f"error: the run ends{where}: {message}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)

    def _broadcast(self, message: dict[str, Any]) -> None:
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            self._send(peer, message)

    def _send(self, peer: socket.socket, message: dict[str, Any]) -> None:
        try:
            peer.sendall((json.dumps(message) + "\n").encode())
        except OSError:
            return  # the reading side notices a broken connection


def _stacks() -> str:
    """Returns where each thread of this process is: the main one first, our own left out."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] != main)
    found = ""
    for ident, frame in frames:
        name = names.get(ident, "unknown to Python")
        if not name.startswith("lifeline"):
            found += f"  thread {name}\n" + "".join(traceback.format_stack(frame))
    return found[:_MOST_STACK_CHARACTERS]
