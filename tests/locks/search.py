"""A search at random: processes that compete to lead, and faults of all kinds, in one seeded run.

Usage: python -m tests.locks.search KIND FAULTS SEED

The journal of the processes is checked against a model of the lock: when each process led, by one clock, how long two
led at once, and for how long that is documented after the faults before it.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, final

import anyio
import psycopg
import redis

from asgi_lifespan_mw import LifespanManager
from tests.locks.conftest import PATIENCE, Engine, postgres_server, redis_or_valkey_server
from tests.locks.contender import TTL, Journal, app_of

MEMBERS = 4
"""How many processes compete."""

NOTICED_IN = 0.5
"""Seconds that a process needs, on a busy machine, from a fault that it can see until its worker has ended."""

LONGEST_GAP = 30.0
"""Seconds for which nobody may lead, whatever happened."""

BLOCKED = "blocked"
"""The line in a journal before a line that comes late, since the process that wrote both was busy."""


# --- a process that competes ---


async def member(kind: str, address: str, journal: str) -> None:
    """Lead when possible; each line of standard input is a command."""
    pages = Journal(journal)
    while True:
        async with LifespanManager(app_of("lead", kind, address, "test/search", journal), None, None):
            print("started", flush=True)
            while (command := await anyio.to_thread.run_sync(sys.stdin.readline)).startswith("block"):
                pages.write(BLOCKED)
                time.sleep(float(command.split()[1]))
                pages.write("still")
        print("stopped", flush=True)
        if command != "reload\n" and not await anyio.to_thread.run_sync(sys.stdin.readline):
            return


# --- faults ---


class Fault(NamedTuple):
    """What was done, and when.

    Attributes:
        at: The seconds of the machine's monotonic clock at which it began.
        what: Its name.
        pid: The process that it was done to; 0 for the engine, or all.
        seconds: For how long.
    """

    at: float
    what: str
    pid: int = 0
    seconds: float = 0.0


@final
class Search:
    """One run."""

    def __init__(self, kind: str, address: str, engine: Engine | None, folder: Path, seed: int) -> None:
        self.faults: list[Fault] = []
        self._kind = kind
        self._address = address
        self._engine = engine
        self.journal = folder / "journal"
        self._random = random.Random(seed)
        self._members: list[subprocess.Popen[str]] = []
        self._stopped: dict[subprocess.Popen[str], float] = {}  # until when each stands still
        self._journal_at = 0
        self._last_line = 0.0

    def run(self, number: int) -> None:
        """Do so many faults."""
        actions: list[tuple[Callable[[], None], int]] = [
            (self._kill, 4), (self._kill_leader, 4), (self._stand_still, 3), (self._block, 3), (self._reload, 3),
            (self._stop_all, 1),
        ]  # fmt: skip
        if self._engine is None:
            actions.append((self._remove_file, 3))
        else:
            actions += [(self._sever, 4), (self._restart, 1)]
        if self._kind == "redis":
            actions.append((self._flush, 3))
        choices, weights = zip(*actions, strict=True)
        try:
            for _ in range(MEMBERS):
                self._add()
            self._wait_for_a_leader()
            for _ in range(number):
                [action] = self._random.choices(choices, weights)
                action()
                self._continue_some()
                if self._random.random() < 0.7:
                    self._wait_for_a_leader()
                self._pause(self._random.random())
            self._continue_all()
            self._wait_for_a_leader()
        finally:
            for one in self._members:
                one.kill()
                one.wait()
                for pipe in (one.stdin, one.stdout):
                    assert pipe is not None
                    pipe.close()

    def _did(self, what: str, pid: int = 0, seconds: float = 0.0) -> None:
        self.faults.append(Fault(time.monotonic(), what, pid, seconds))

    def _pause(self, seconds: float) -> None:
        time.sleep(seconds)  # the time between two faults is part of the search
        self._continue_some()

    def _add(self) -> None:
        one = subprocess.Popen(
            [sys.executable, "-m", "tests.locks.search", "member", self._kind, self._address, str(self.journal)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._members.append(one)

    def _any(self) -> "subprocess.Popen[str]":
        return self._random.choice(self._members)

    def _leader(self) -> "subprocess.Popen[str]":
        pids = {one.pid: one for one in self._members}
        lines = [line.split() for line in self._tail().splitlines()]
        return next((pids[int(pid)] for pid, *_ in reversed(lines) if int(pid) in pids), self._members[0])

    def _tail(self) -> str:
        with self.journal.open("rb") as file:
            file.seek(max(0, self.journal.stat().st_size - 2000))
            return file.read().decode().partition("\n")[2]

    def _kill(self, one: "subprocess.Popen[str] | None" = None) -> None:
        one = one or self._any()
        self._did("kill", one.pid)
        self._members.remove(one)
        self._stopped.pop(one, None)
        one.kill()
        one.wait()
        assert one.stdin is not None
        assert one.stdout is not None
        one.stdin.close()
        one.stdout.close()
        self._add()

    def _kill_leader(self) -> None:
        self._kill(self._leader())

    def _stand_still(self) -> None:
        one = self._leader() if self._random.random() < 0.7 else self._any()
        seconds = self._random.uniform(0.1, 1.5 * TTL)
        self._did("stand still", one.pid, seconds)
        one.send_signal(signal.SIGSTOP)
        self._stopped[one] = time.monotonic() + seconds

    def _continue_some(self) -> None:
        for one, until in [*self._stopped.items()]:
            if until <= time.monotonic():
                self._continue(one)

    def _continue(self, one: "subprocess.Popen[str]") -> None:
        del self._stopped[one]
        self._did("continue", one.pid)
        one.send_signal(signal.SIGCONT)

    def _continue_all(self) -> None:
        for one in [*self._stopped]:
            self._continue(one)

    def _tell(self, one: "subprocess.Popen[str]", command: str) -> None:
        assert one.stdin is not None
        one.stdin.write(command + "\n")
        one.stdin.flush()

    def _block(self) -> None:
        one = self._leader() if self._random.random() < 0.7 else self._any()
        seconds = self._random.uniform(0.1, 1.5 * TTL)
        self._did("block", one.pid, seconds)
        self._tell(one, f"block {seconds}")

    def _reload(self) -> None:
        one = self._any()
        self._did("reload", one.pid)
        self._tell(one, "reload")

    def _stop_all(self) -> None:
        self._continue_all()
        for one in self._members:
            self._reads(one, "started")
        self._did("stop all")
        for one in self._members:
            self._tell(one, "stop")
        for one in self._members:
            self._reads(one, "stopped")
        self._did("all stopped")
        for one in self._members:
            self._tell(one, "start")

    def _reads(self, one: "subprocess.Popen[str]", word: str) -> None:
        """Wait until the last word of a process is `word`, for which the process is asked to reload if need be."""
        assert one.stdout is not None
        if word == "started":
            # Its output has many lines by now: the last one is that of the reload that is asked for here.
            self._tell(one, "reload")
        deadline = threading.Timer(PATIENCE, one.kill)
        deadline.start()
        seen = [next(one.stdout, "")]
        while seen[-1] and not (
            seen[-2:] == ["stopped\n", "started\n"] if word == "started" else "stopped" in seen[-1]
        ):
            seen.append(next(one.stdout, ""))
        deadline.cancel()
        assert seen[-1], f"a process did not become {word}"

    def _sever(self) -> None:
        assert self._engine is not None
        self._did("sever")
        if self._kind == "postgres":
            with psycopg.connect(self._engine.url, autocommit=True) as db:
                db.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")
        else:
            with redis.Redis.from_url(self._engine.url) as client:
                client.client_kill_filter(_type="normal", skipme=True)

    def _restart(self) -> None:
        assert self._engine is not None
        self._did("restart")
        self._engine.crash()
        time.sleep(self._random.uniform(0, TTL))
        self._engine.process = self._engine.run()
        self._engine.wait()
        self._did("restarted")

    def _flush(self) -> None:
        assert self._engine is not None
        self._did("flush")
        with redis.Redis.from_url(self._engine.url) as client:
            client.flushall()

    def _remove_file(self) -> None:
        self._did("remove")
        [*_, file] = [*Path(self._address).glob("test-search*"), Path(self._address, "none")]
        if self._random.random() < 0.5:
            file.unlink(missing_ok=True)
        else:
            other = file.with_name("other")
            other.touch()
            other.replace(file)

    def _wait_for_a_leader(self) -> None:
        """Wait until somebody has led for a moment."""
        began = time.monotonic()
        while not (self.journal.exists() and f"{'still'} " in self._since(began)):
            assert time.monotonic() < began + 2 * LONGEST_GAP, "nobody leads"
            time.sleep(0.02)
            self._continue_some()

    def _since(self, began: float) -> str:
        return "\n".join(line for line in self._tail().splitlines() if float(line.split()[2]) > began)


# --- the model ---


class Span(NamedTuple):
    """A time during which a process worked as the leader."""

    pid: int
    first: float
    last: float


def spans_of(journal: Path) -> list[Span]:
    """Return when each process led. While it stands still, or after it was killed, it does not."""
    found: list[Span] = []
    leading: dict[int, tuple[float, float, str]] = {}  # since when, the last line's time, and what that was
    for line in journal.read_text().splitlines():
        pid, what, at = int(line.split()[0]), line.split()[1], float(line.split()[2])
        first, last, before = leading.pop(pid, (at, at, ""))
        if not before and what != "enter":
            continue  # it was told to block, and does not lead
        if what == "enter" or (at > last + 0.3 and before != BLOCKED):
            found.append(Span(pid, first, last))
            first = at
        if what == "leave":
            found.append(Span(pid, first, at))
        else:
            leading[pid] = (first, at, what)
    found += [Span(pid, first, last) for pid, (first, last, _) in leading.items()]
    return sorted((span for span in found if span.first < span.last), key=lambda span: span.first)


class Overlap(NamedTuple):
    """Two that led at once.

    Attributes:
        at: When the second one entered.
        seconds: For how long both went on.
        allowed: For how long that is documented, after the faults before it.
        after: Those faults.
    """

    at: float
    seconds: float
    allowed: float
    after: str


def overlaps_of(kind: str, spans: list[Span], faults: list[Fault]) -> list[Overlap]:
    """Return when two led at once."""
    found: list[Overlap] = []
    for index, one in enumerate(spans):
        for other in itertools.takewhile(lambda other, one=one: other.first < one.last, spans[index + 1 :]):  # type: ignore[misc]
            seconds = min(one.last, other.last) - other.first
            if other.pid != one.pid and seconds > 0:
                before = [fault for fault in faults if other.first - 4 * TTL < fault.at < other.first + seconds]
                own = [fault for fault in before if fault.pid in (one.pid, other.pid)]
                causes = {fault.what: limit for fault in before if (limit := _limit(kind, fault, fault in own))}
                # A process that is blocked notices nothing.
                blocked = max((fault.at + fault.seconds for fault in own if fault.what == "block"), default=0.0)
                stood_still = sum(fault.seconds for fault in own if fault.what == "stand still")
                late = max(0.0, blocked + stood_still - other.first) if blocked else 0.0
                allowed = late + max(causes.values()) if causes else 0.0
                found.append(Overlap(other.first, seconds, allowed, ", ".join(sorted(causes))))
    return found


def _limit(kind: str, fault: Fault, is_own: bool) -> float:
    """Return for how many seconds two may lead after a fault, if neither is blocked; 0 if never."""
    match kind, fault.what:
        case "file", "remove":
            return 1.0 + NOTICED_IN
        case "postgres", "sever" | "restart":
            return NOTICED_IN
        case "redis", "flush" | "restart" | "restarted":
            return TTL / 3 + NOTICED_IN
        case "redis", "block" | "stand still" | "continue" if is_own:
            return NOTICED_IN
    return 0.0


def main(kind: str, number: int, seed: int) -> list[str]:
    """Run a search, print its figures, and return what was wrong."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = None
        if kind != "file":
            server = postgres_server if kind == "postgres" else redis_or_valkey_server
            engine = stack.enter_context(server())
        address = str(folder) if engine is None else engine.url
        began = time.monotonic()
        search = Search(kind, address, engine, folder, seed)
        search.run(number)
        took = time.monotonic() - began
        spans = spans_of(search.journal)
    faults = Counter(
        fault.what for fault in search.faults if fault.what not in ("continue", "restarted", "all stopped")
    )
    overlaps = overlaps_of(kind, spans, search.faults)
    ends_of = itertools.accumulate((span.last for span in spans), max)
    gaps = [later.first - last for last, later in zip(ends_of, spans[1:], strict=False)]
    print(f"{kind}, seed {seed}: {sum(faults.values())} faults in {took:.0f} s: {dict(faults)}")
    print(f"  {len(spans)} times a process led; nobody led for at most {max(gaps):.1f} s")
    worst = max(overlaps, key=lambda one: one.seconds, default=None)
    print(
        f"  two led {len(overlaps)} times" + (f", at most {worst.seconds:.2f} s, after {worst.after}" if worst else "")
    )
    wrong = [f"two led for {one}" for one in overlaps if one.seconds > one.allowed]
    wrong += [f"nobody led for {gap:.1f} s" for gap in gaps if gap > LONGEST_GAP]
    stops = [fault for fault in search.faults if fault.what in ("stop all", "all stopped")]
    for stop, stopped in zip(stops[::2], stops[1::2], strict=True):
        wrong += [
            f"{span.pid} began {span.first - stop.at:.2f} s after all were told to stop"
            for span in spans
            if stop.at + 0.1 < span.first < stopped.at
        ]
    return wrong


if __name__ == "__main__":
    if sys.argv[1] == "member":
        anyio.run(member, sys.argv[2], sys.argv[3], sys.argv[4])
    else:
        problems: list[Any] = main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        print(*problems, sep=os.linesep)
        sys.exit(bool(problems))
