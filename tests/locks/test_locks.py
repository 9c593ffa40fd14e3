"""FileLock, PostgresLock and RedisLock, each on its real engine."""

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from unittest.mock import AsyncMock

import anyio
import anyio.lowlevel
import filelock
import httpx
import psycopg
import pytest
import redis
import redis.asyncio
from blockbuster import blockbuster_ctx

import asgi_lifespan_mw.locks.engine
import asgi_lifespan_mw.locks.postgres
from asgi_lifespan_mw import Lifespan, LifespanManager
from asgi_lifespan_mw._units.locking import LockLost, LockRefused
from asgi_lifespan_mw.locks import FileLock, PostgresLock, RedisLock
from tests.locks.conftest import Engine, free_port, inside, postgres_server, redis_or_valkey_server
from tests.locks.contender import TTL, holders, lock_of, overlaps, read
from tests.locks.network import three_hosts
from tests.locks.search import main as search

PATIENCE = 60.0
ROOT = Path(__file__).parent.parent.parent
KINDS = ["file", pytest.param("postgres", marks=pytest.mark.engines), pytest.param("redis", marks=pytest.mark.engines)]


@pytest.fixture
def anyio_backend() -> str:
    """The engines' libraries need asyncio."""
    return "asyncio"


@pytest.fixture
def address(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the locks of a kind are."""
    if kind == "file":
        return str(tmp_path)
    engine: Engine = request.getfixturevalue({"postgres": "postgres", "redis": "redis_server"}[kind])
    return engine.url


@contextmanager
def contender(*arguments: str, namespace: str | None = None) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that leads when it can, or starts under a lock."""
    with subprocess.Popen(
        [*inside(namespace), sys.executable, "-m", "tests.locks.contender", *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
            assert process.stdin is not None
            process.stdin.close()  # the end of its input ends it, so that its coverage is written
            process.wait(PATIENCE)
        finally:
            process.kill()


def eventually(condition: Callable[[], bool]) -> float:
    """Wait until a condition holds, and return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + PATIENCE, "it did not come true"
        time.sleep(0.01)
    return time.monotonic() - began


# --- one lock ---


@pytest.mark.parametrize("kind", KINDS)
async def test_one_holder_excludes_another(kind: str, address: str) -> None:
    """Until it leaves; then the other one enters."""
    order: list[str] = []
    entered, may_leave = anyio.Event(), anyio.Event()

    async def first() -> None:
        async with lock_of(kind, address, "test/one")():
            order.append("first")
            entered.set()
            await may_leave.wait()
            order.append("first leaves")

    async def second() -> None:
        await entered.wait()
        async with lock_of(kind, address, "test/one")():
            order.append("second")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        tasks.start_soon(second)
        await entered.wait()
        with anyio.move_on_after(0.5):
            await anyio.sleep_forever()
        assert order == ["first"]
        may_leave.set()
    assert order == ["first", "first leaves", "second"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wait_that_is_cancelled_leaves_nothing_behind(kind: str, address: str) -> None:
    """The holder goes on, and a third one enters when it leaves."""
    async with lock_of(kind, address, "test/cancel")():
        with anyio.move_on_after(0.5) as limit:
            async with lock_of(kind, address, "test/cancel")():
                raise AssertionError("two are inside")  # pragma: no cover
        assert limit.cancelled_caught
    with anyio.fail_after(PATIENCE):
        async with lock_of(kind, address, "test/cancel")():
            pass


@pytest.mark.parametrize("kind", KINDS)
async def test_locks_of_other_names_do_not_exclude_each_other(kind: str, address: str) -> None:
    """The name counts."""
    with anyio.fail_after(10):
        async with lock_of(kind, address, "test/a")(), lock_of(kind, address, "test/b")():
            pass


async def test_a_file_lock_works_on_trio(tmp_path: Path) -> None:
    """It has no other thread and no event loop of its own."""

    async def run() -> None:
        lock = FileLock(tmp_path / "lock")
        async with lock():
            with anyio.move_on_after(0.3) as limit:
                async with lock():
                    raise AssertionError("two are inside")  # pragma: no cover
            assert limit.cancelled_caught

    await anyio.to_thread.run_sync(lambda: anyio.run(run, backend="trio"))


@pytest.mark.parametrize("lock", [PostgresLock("", "n"), RedisLock("redis://h", "n")], ids=["postgres", "redis"])
def test_the_others_say_that_they_need_asyncio(lock: Any) -> None:
    """At once: a worker does not try again."""

    async def run() -> None:
        hooks = Lifespan()
        hooks.worker(anyio.sleep_forever, leader=lock)
        async with LifespanManager(hooks):
            await anyio.sleep(0.2)  # pragma: no cover - it fails before the answer, or soon after

    with pytest.raises(NotImplementedError, match="Lock needs asyncio; on trio, use FileLock"):
        anyio.run(run, backend="trio")


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: PostgresLock("postgresql+asyncpg://u:secret@h/d", "n"), ValueError, "without a driver's name"),
        (lambda: PostgresLock(5, "n"), TypeError, "got a conninfo of type int, expected a string"),  # type: ignore[arg-type]
        (lambda: PostgresLock("", 5), TypeError, "got a name of type int, expected a string"),  # type: ignore[arg-type]
        (lambda: PostgresLock("", ""), ValueError, "got an empty name"),
        (lambda: RedisLock("http://u:secret@h", "n"), ValueError, "a URL that is not valid"),
        (lambda: RedisLock(redis.Redis(), "n"), TypeError, r"got a redis\.\S*Redis, expected a redis.asyncio.Redis"),
        (lambda: RedisLock("redis://h", "n", ttl=0.5), ValueError, "got 0.5, expected at least 1 s"),
        (lambda: RedisLock("redis://h", "n", ttl="5"), TypeError, "got '5', expected seconds"),  # type: ignore[arg-type]
    ],
    ids=["driver", "conninfo", "name", "empty", "url", "client", "short", "string"],
)
def test_bad_input_is_refused_and_not_shown(make: Callable[[], object], error: type[Exception], message: str) -> None:
    """A connection string has a password in it."""
    with pytest.raises(error, match=message) as raised:
        make()
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_locks_show_their_names_and_no_passwords() -> None:
    """In messages."""
    assert repr(PostgresLock("postgresql://u:secret@h/d", "shop")) == "PostgresLock(..., 'shop')"
    assert repr(RedisLock("redis://:secret@h", "shop")) == "RedisLock(..., 'shop')"
    assert repr(FileLock("/tmp/lock")) == "FileLock('/tmp/lock')"


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (lambda: FileLock("x"), "filelock", "file"),
        (lambda: PostgresLock("", "n"), "psycopg", "postgres"),
        (lambda: RedisLock("redis://h", "n"), "redis.asyncio", "redis"),
    ],
    ids=["file", "postgres", "redis"],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    make: Callable[[], object], module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a lock is made, and not when the package is imported."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"Lock needs \w+: pip install 'asgi-lifespan-mw\[{extra}\]'"):
        make()


def test_the_package_imports_no_engine() -> None:
    """Nor does the module of the locks."""
    code = "import sys, asgi_lifespan_mw.locks; print({'filelock', 'psycopg', 'redis'} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert ran.stdout == "set()\n"


@pytest.mark.parametrize(
    ("make", "another"),
    [
        (lambda: FileLock("a"), lambda: FileLock("b")),
        (lambda: PostgresLock("host=h", "a"), lambda: PostgresLock("host=h", "b")),
        (lambda: RedisLock("redis://h", "a"), lambda: RedisLock("redis://h", "b")),
    ],
    ids=["file", "postgres", "redis"],
)
def test_two_locks_of_one_name_are_one(make: Any, another: Any) -> None:
    """The engine does not tell them apart either."""
    hooks = Lifespan()
    hooks.on_startup(anyio.sleep_forever, lock=make())
    with pytest.raises(ValueError, match="a lock of its own"):
        hooks.worker(anyio.sleep_forever, leader=make())
    hooks.worker(anyio.sleep_forever, leader=another())
    assert hash(make()) == hash(make())
    assert make() != "another thing"


async def test_a_redis_server_that_is_not_there_fails_the_start() -> None:
    """With its own error, and without a password."""
    hooks = Lifespan()
    hooks.on_startup(anyio.lowlevel.checkpoint, lock=RedisLock(f"redis://:secret@127.0.0.1:{free_port()}", "test"))
    with pytest.raises(redis.ConnectionError) as raised:
        async with LifespanManager(hooks, 60):
            raise AssertionError
    assert "secret" not in str(raised.value)


async def test_a_postgres_server_that_is_not_there_fails_the_start() -> None:
    """With its own error, and without a password."""
    address = f"postgresql://tests:secret@127.0.0.1:{free_port()}/postgres"
    hooks = Lifespan()
    hooks.on_startup(anyio.lowlevel.checkpoint, lock=PostgresLock(address, "test"))
    with pytest.raises(psycopg.OperationalError) as raised:
        async with LifespanManager(hooks, 60):
            raise AssertionError
    assert "secret" not in str(raised.value)


def test_an_overlap_in_a_journal_is_found(tmp_path: Path) -> None:
    """The check of the tests below can fail."""
    journal = tmp_path / "journal"
    journal.write_text("1 enter 1.0\n1 still 2.0\n2 enter 3.0\n2 still 3.5\n1 still 4.0\n")
    assert overlaps(journal) == [1.0]
    assert holders(journal) == [1, 2]


# --- processes ---


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_starts_under_a_lock_never_overlap(kind: str, address: str, tmp_path: Path) -> None:
    """Four processes that start at once go through it one at a time."""
    journal = tmp_path / "journal"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(contender("start", kind, address, "test/start", str(journal))) for _ in range(4)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
    assert [what for _, what, _ in read(journal)] == ["enter", "leave"] * 4
    assert len(set(holders(journal))) == 4


FAILOVER = {"file": 6.0, "postgres": 6.0, "redis": TTL + 6.0}
"""Seconds within which another process leads after the leader was killed: one until the next attempt, one for which it
holds the lock before it begins, and four for a busy machine."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_leader_that_is_killed_is_followed_by_another(kind: str, address: str, tmp_path: Path) -> None:
    """Again and again; there is one at a time, and all waited for it."""
    journal = tmp_path / "journal"
    with ExitStack() as stack:
        names = ("lead", kind, address, "test/kill", str(journal))
        processes = {one.pid: one for one in (stack.enter_context(contender(*names)) for _ in range(4))}
        took: list[float] = []
        for number in range(1, 4):
            eventually(lambda number=number: len(holders(journal)) == number)  # type: ignore[misc]
            processes[holders(journal)[-1]].kill()
            took.append(eventually(lambda number=number: len(holders(journal)) == number + 1))  # type: ignore[misc]
    print(f"{kind}: failover in {min(took):.2f} to {max(took):.2f} s")
    assert len(set(holders(journal))) == 4
    assert overlaps(journal) == []
    assert min(took) < FAILOVER[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_leader_that_stops_frees_the_lock_at_once(kind: str, address: str, tmp_path: Path) -> None:
    """After its worker has ended."""
    journal = tmp_path / "journal"
    names = ("lead", kind, address, "test/stop", str(journal))
    with contender(*names) as first:
        eventually(lambda: len(holders(journal)) == 1)
        with contender(*names) as second:
            assert second.stdout is not None
            assert second.stdout.readline() == "started\n"
            assert first.stdin is not None
            first.stdin.close()
            took = eventually(lambda: len(holders(journal)) == 2)
            assert first.wait(PATIENCE) == 0
    entries = [what for _, what, _ in read(journal) if what != "still"]
    assert entries[:3] == ["enter", "leave", "enter"]
    assert took < 10


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_one_leads_while_leaders_are_killed(kind: str, seconds: int, address: str, tmp_path: Path) -> None:
    """A new process takes the place of each that is killed."""
    journal, deadline = tmp_path / "journal", time.monotonic() + seconds
    with ExitStack() as stack:
        names = ("lead", kind, address, f"test/random/{seconds}", str(journal))
        processes = {one.pid: one for one in (stack.enter_context(contender(*names)) for _ in range(3))}
        number = 0
        while time.monotonic() < deadline:
            number += 1
            eventually(lambda number=number: len(holders(journal)) == number)  # type: ignore[misc]
            time.sleep(number % 7 / 10)
            processes[holders(journal)[-1]].kill()
            another = stack.enter_context(contender(*names))
            processes[another.pid] = another
    print(f"{kind}: {number} leaders in {seconds} s")
    assert overlaps(journal) == []
    assert number > seconds / (TTL + 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_ticks_does_so_in_one_process(kind: str, address: str, tmp_path: Path) -> None:
    """It holds its lock between two runs, so that no other process runs in a pause; a killed one has a successor."""
    journal = tmp_path / "journal"
    with ExitStack() as stack:
        names = ("tick", kind, address, "test/tick", str(journal))
        processes = {one.pid: one for one in (stack.enter_context(contender(*names)) for _ in range(3))}
        eventually(lambda: len(holders(journal)) >= 10)
        first = holders(journal)[-1]
        assert set(holders(journal)) == {first}
        processes[first].kill()
        eventually(lambda: holders(journal)[-5:].count(first) == 0)
        second = holders(journal)[-1]
        assert set(holders(journal)) == {first, second}
    assert overlaps(journal) == []


@pytest.mark.engines
async def test_a_consumer_comes_back_when_its_server_does(caplog: pytest.LogCaptureFixture) -> None:
    """Redis is killed and started again; the consumer connects anew, and the app serves on meanwhile."""
    got: list[bytes] = []
    hooks = Lifespan()
    with redis_or_valkey_server() as engine:

        @hooks.worker(restart=True)
        async def consume() -> None:
            retries = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)  # the worker's alone
            async with redis.asyncio.Redis.from_url(engine.url, socket_timeout=30, retry=retries) as client:
                while True:
                    popped: Any = await client.blpop(["jobs"], timeout=20)
                    got.append(popped[1])

        async def push(job: str) -> None:
            with redis.Redis.from_url(engine.url) as client:
                client.rpush("jobs", job)
            with anyio.fail_after(PATIENCE):
                while not got or got[-1] != job.encode():
                    await anyio.sleep(0.01)

        def outcome() -> str:
            assert hooks.report is not None
            return hooks.report.units[0].outcome

        async with LifespanManager(hooks):
            await push("one")
            engine.crash()
            with anyio.fail_after(PATIENCE):
                while outcome() != "restarting":
                    await anyio.sleep(0.01)
            engine.process = engine.run()
            engine.wait()
            await push("two")
            assert hooks.report is not None
            assert hooks.report.units[0].restarts >= 1
    assert got == [b"one", b"two"]
    assert "run failed in hook 'consume'" in caplog.text
    assert "it is restarted in 1 s" in caplog.text


@pytest.mark.engines
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_at_random_finds_no_overlap_beyond_the_documented(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faults of all kinds in one seeded run; `python -m tests.locks.search KIND FAULTS SEED` is a longer one."""
    assert search(kind, 12, seed=1) == []
    assert "12 faults" in capsys.readouterr().out


# --- hosts ---


@pytest.mark.engines
@pytest.mark.parametrize("kind", [pytest.param("postgres", marks=pytest.mark.exhaustive), "redis"])
def test_a_network_that_is_cut_in_silence_leaves_one_leader(
    kind: str, tmp_path: Path
) -> None:  # pragma: no cover - as in `network`
    """The leader stops itself before the engine gives the lock to another host, and leads again when it can."""
    journal = tmp_path / "journal"
    server = postgres_server if kind == "postgres" else redis_or_valkey_server
    with three_hosts() as network, server(network.address, network.engine) as engine, ExitStack() as stack:
        names = ("lead", kind, engine.url, "test/cut", str(journal))
        first = stack.enter_context(contender(*names, namespace=network.hosts[0]))
        eventually(lambda: holders(journal) == [first.pid])
        second = stack.enter_context(contender(*names, namespace=network.hosts[1]))
        assert second.stdout is not None
        assert second.stdout.readline() == "started\n"
        network.cut(0)
        took = eventually(lambda: holders(journal) == [first.pid, second.pid])
        changes = [(pid, what) for pid, what, _ in read(journal) if what != "still"]
        assert changes == [(first.pid, "enter"), (first.pid, "leave"), (second.pid, "enter")]
        network.heal(0)
        assert second.stdin is not None
        second.stdin.close()
        healed = eventually(lambda: holders(journal) == [first.pid, second.pid, first.pid])
    print(
        f"{kind}: another host leads {took:.1f} s after the cut, the first one {healed:.1f} s after the network healed"
    )
    assert overlaps(journal) == []


# --- loss ---


class Held:
    """A lock that is held in a thread of its own, as a leader would hold it.

    Attributes:
        lost_after: The seconds from its beginning until the loss was told; None while it was not.
        error: What its release raised because of that.
    """

    def __init__(self, lock: Any) -> None:
        self.lost_after: float | None = None
        self.error: Exception | None = None
        self._held, self._lock = threading.Event(), lock
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._held.wait(PATIENCE)
        self.began = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        self._loop.close()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._hold())
        except LockLost as error:
            self.error = error

    async def _hold(self) -> None:
        self._stop = asyncio.Event()
        async with self._lock() as handle:
            self._held.set()
            watching = asyncio.ensure_future(handle.wait())
            stopping = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait([watching, stopping], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                self.lost_after = time.monotonic() - self.began
            watching.cancel()
            await self._stop.wait()

    def block(self, seconds: float) -> None:
        """Block its event loop for so long."""
        self._loop.call_soon_threadsafe(time.sleep, seconds)

    def lost(self) -> float:
        """Wait for the loss, and return after how many seconds it was told."""
        eventually(lambda: self.lost_after is not None)
        assert self.lost_after is not None
        return self.lost_after


class Proxy:
    """A TCP proxy before a server, whose connections can be severed, or fall silent."""

    def __init__(self, port: int) -> None:
        self._silent = threading.Event()
        self._pairs: list[socket.socket] = []
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        self.sever()

    def sever(self) -> None:
        """Close all connections."""
        for one in self._pairs:
            one.close() if self._silent.is_set() else _shut(one)

    def fall_silent(self) -> None:
        """Keep the connections, and pass nothing on."""
        self._silent.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                self._pairs += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(65536):
                if not self._silent.is_set():
                    target.sendall(part)
        _shut(target)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)


@pytest.mark.engines
def test_a_session_that_is_terminated_is_told_at_once(postgres: Engine) -> None:
    """`pg_terminate_backend`, as an administrator would."""
    with (
        Held(PostgresLock(postgres.url, "test/terminate")) as held,
        psycopg.connect(postgres.url, autocommit=True) as db,
    ):
        db.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted")
        assert held.lost() < 5


@pytest.mark.engines
@pytest.mark.parametrize("how", ["sever", "fall_silent"])
def test_a_connection_to_postgres_that_breaks_is_told(how: str, postgres: Engine) -> None:
    """A severed one at once; one that falls silent in two times 5 seconds."""
    with Proxy(postgres.port) as proxy:
        url = postgres.url.replace(str(postgres.port), str(proxy.port))
        with Held(PostgresLock(url, "test/proxy")) as held:
            getattr(proxy, how)()
            assert held.lost() < (5 if how == "sever" else 20)


@pytest.mark.engines
def test_a_postgres_server_that_stands_still_is_told(postgres: Engine) -> None:
    """It is not asked for longer than 5 seconds."""
    with Held(PostgresLock(postgres.url, "test/still")) as held:
        postgres.pause()
        try:
            assert held.lost() < 20
        finally:
            postgres.resume()


@pytest.mark.engines
async def test_a_postgres_lock_is_held_for_as_long_as_it_is_needed(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The questions to the server do no harm."""
    monkeypatch.setattr(asgi_lifespan_mw.locks.postgres, "CHECK_EVERY", 0.1)
    async with PostgresLock(postgres.url, "test/long")() as watch:
        with anyio.move_on_after(1.5) as limit:
            await watch.wait()
        assert limit.cancelled_caught


@pytest.mark.engines
async def test_a_lease_is_renewed_for_as_long_as_it_is_needed(redis_server: Engine) -> None:
    """Also with a client of the user's own, which stays open."""
    client = redis.asyncio.Redis.from_url(redis_server.url)
    async with RedisLock(client, "test/long", ttl=3)() as lease:
        with anyio.move_on_after(4) as limit:
            await lease.wait()
        assert limit.cancelled_caught
        assert await client.exists("test/long") == 1
    assert await client.exists("test/long") == 0
    await client.aclose()


@pytest.mark.engines
def test_a_lease_that_somebody_deletes_is_told(redis_server: Engine) -> None:
    """When it is renewed next."""
    with Held(RedisLock(redis_server.url, "test/deleted", ttl=3)) as held:
        redis.Redis.from_url(redis_server.url).delete("test/deleted")
        assert held.lost() < 20


@pytest.mark.engines
def test_a_connection_that_redis_kills_is_made_anew(redis_server: Engine) -> None:
    """`CLIENT KILL`: the lease stays, for the next renewal is in time."""
    client = redis.Redis.from_url(redis_server.url)
    with Held(RedisLock(redis_server.url, "test/client", ttl=3)) as held:
        for one in client.client_list():
            if one["id"] != str(client.client_id()):
                client.client_kill_filter(_id=one["id"])
        time.sleep(4)
        assert held.lost_after is None
    client.close()


@pytest.mark.engines
@pytest.mark.parametrize("how", ["pause", "silent"])
def test_a_redis_server_that_cannot_be_reached_is_given_up_before_the_lease_ends(
    how: str, redis_server: Engine
) -> None:
    """At two thirds of the TTL, counted from the last renewal."""
    with Proxy(redis_server.port) as proxy:
        url = redis_server.url.replace(str(redis_server.port), str(proxy.port))
        with Held(RedisLock(url if how == "silent" else redis_server.url, "test/pause", ttl=6)) as held:
            if how == "silent":
                proxy.fall_silent()
            else:
                redis_server.pause()
            try:
                assert held.lost() < 6
            finally:
                redis_server.resume()


@pytest.mark.engines
def test_an_event_loop_that_stalls_for_longer_than_the_lease_gives_up(redis_server: Engine) -> None:
    """As soon as it goes on."""
    with Held(RedisLock(redis_server.url, "test/stall", ttl=1)) as held:
        held.block(2)
        assert 1.5 < held.lost() < 20


@pytest.mark.engines
async def test_a_renewal_that_fails_for_a_while_is_tried_again(
    redis_server: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the lease."""
    async with RedisLock(redis_server.url, "test/retry", ttl=3)() as lease:
        renew, failures = lease._lock.reacquire, [redis.ConnectionError("once"), TimeoutError("twice")]

        async def fails_twice() -> Any:
            if failures:
                raise failures.pop()
            return await renew()

        monkeypatch.setattr(lease._lock, "reacquire", fails_twice)
        with anyio.move_on_after(4) as limit:
            await lease.wait()
        assert limit.cancelled_caught
        assert failures == []


# --- files ---


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_goes_away_is_a_loss(how: str, tmp_path: Path) -> None:
    """`git clean`, systemd-tmpfiles, or a deployment that swaps its folder: the next process locks another file."""
    path = tmp_path / "lock"
    with Held(FileLock(path)) as held:
        assert held.lost_after is None
        if how == "removed":
            path.unlink()
        else:
            (tmp_path / "other").touch()
            (tmp_path / "other").replace(path)
        assert held.lost() < 20
    assert isinstance(held.error, LockLost)


async def test_a_file_that_went_away_unseen_is_a_loss_at_the_release(tmp_path: Path) -> None:
    """A hook that blocks the event loop under a lock whose file is removed meanwhile."""
    with pytest.raises(LockLost, match="was removed or replaced"):
        async with FileLock(tmp_path / "lock")():
            (tmp_path / "lock").unlink()


async def test_a_file_that_is_replaced_while_it_is_locked_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the opening of the file and its lock: another process may lock the new one."""
    path, acquire, times = tmp_path / "lock", filelock.FileLock.acquire, list[int]()

    def replaced(lock: Any, *args: Any, **options: Any) -> Any:
        acquired = acquire(lock, *args, **options)
        times.append(1)
        if len(times) == 1:
            path.unlink()
        return acquired

    monkeypatch.setattr(filelock.FileLock, "acquire", replaced)
    async with FileLock(path)():
        assert len(times) == 2


async def test_a_file_lock_works_off_the_event_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where blocking calls are refused; filelock's own DEBUG lines about each attempt stay out of the log."""
    caplog.set_level(logging.DEBUG)
    with blockbuster_ctx(scanned_modules=[asgi_lifespan_mw, filelock]) as blocking:
        blocking.functions["os.stat"].activate()
        async with FileLock(tmp_path / "lock")() as held:
            with anyio.move_on_after(0.3) as limit:
                async with FileLock(tmp_path / "lock")():
                    raise AssertionError("two are inside")  # pragma: no cover
            assert limit.cancelled_caught
            with anyio.move_on_after(1.2):
                await held.wait()
    assert not [record for record in caplog.records if record.name == "filelock"]
    filelock.FileLock(tmp_path / "another").acquire().lock.release()
    assert [record for record in caplog.records if record.name == "filelock"]


@pytest.mark.slow
def test_a_forked_child_of_a_killed_leader_does_not_keep_a_file_lock(tmp_path: Path) -> None:
    """Versions of filelock before 3.30.0 left the lock with it."""
    code = """
import os, sys, time, anyio
from asgi_lifespan_mw.locks import FileLock

async def main():
    async with FileLock(sys.argv[1])():
        if os.fork():
            print("held", flush=True)
        time.sleep(60)

anyio.run(main)
"""
    path = str(tmp_path / "lock")
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, path], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            process.kill()
            process.wait(PATIENCE)

            async def follow() -> None:
                with anyio.fail_after(PATIENCE):
                    async with FileLock(path)():
                        pass

            anyio.run(follow)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_file_lock_is_held_until_the_process_ends_if_its_thread_goes_on(backend: str, tmp_path: Path) -> None:
    """The start failed and was answered, the event loop has ended, and the thread still migrates."""
    code = """
import sys, threading, time, anyio
from asgi_lifespan_mw import Lifespan, LifespanManager, threaded
from asgi_lifespan_mw._units import locking
from asgi_lifespan_mw.locks import FileLock

locking.THREAD_LIMIT = 0.2
hooks = Lifespan()

@hooks.on_startup(lock=FileLock(sys.argv[1]), timeout=0.2)
@threaded
def migrate():
    sys.stdin.readline()

async def main():
    try:
        async with LifespanManager(hooks, None, None):
            pass
    except TimeoutError:
        pass

anyio.run(main, backend=sys.argv[2])
print("the loop has ended", flush=True)
sys.stdin.readline()
"""
    path = str(tmp_path / "lock")
    other = filelock.FileLock(path)
    with subprocess.Popen(
        [sys.executable, "-c", code, path, backend], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "the loop has ended\n"
            with pytest.raises(filelock.Timeout):
                other.acquire(blocking=False)
            process.stdin.close()
            process.wait(PATIENCE)
            other.acquire(timeout=PATIENCE)
            other.release()
        finally:
            process.kill()


# --- PostgreSQL ---


@pytest.mark.engines
async def test_a_process_that_waits_keeps_no_snapshot(postgres: Engine) -> None:
    """The holder's CREATE INDEX CONCURRENTLY waits for all older snapshots, and VACUUM is held up by them."""
    lock = PostgresLock(postgres.url, "test/snapshot")
    async with lock(), anyio.create_task_group() as tasks:
        tasks.start_soon(lock().__aenter__)
        await anyio.sleep(1.5)
        async with await psycopg.AsyncConnection.connect(postgres.url, autocommit=True) as db:
            await db.execute("set statement_timeout = '10s'")
            waits = await (
                await db.execute(
                    "select count(*), count(backend_xmin) from pg_stat_activity "
                    "where query like '%pg_try_advisory%' and pid <> pg_backend_pid()"
                )
            ).fetchone()
            assert waits == (2, 0)
            await db.execute("create table if not exists indexed (a int)")
            await db.execute("create index concurrently if not exists an_index on indexed (a)")
        tasks.cancel_scope.cancel()


@contextmanager
def pooler(mode: str, server: Engine, folder: Path) -> Iterator[str]:  # pragma: no cover - where it is installed
    """Run PgBouncer before a server, and yield the URL for it."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    port = free_port()
    (folder / "users").write_text('"tests" "secret"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\npostgres = host=127.0.0.1 port={server.port} user=tests\n[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\npool_mode = {mode}\nauth_type = any\n"
        f"auth_file = {folder}/users\nunix_socket_dir =\n"
    )
    folder.chmod(0o755)
    for parent in folder.parents[:2]:
        parent.chmod(0o755)
    user = ["-u", "postgres"] if os.geteuid() == 0 else []
    process = subprocess.Popen(
        [program, *user, "-q", str(folder / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"postgresql://tests:secret@127.0.0.1:{port}/postgres"
    try:

        def answers() -> bool:
            assert process.poll() is None, "the pooler ended"
            with suppress(psycopg.OperationalError):
                psycopg.connect(url, prepare_threshold=None).close()
                return True
            return False

        eventually(answers)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.mark.engines
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pooler_is_refused(mode: str, postgres: Engine, tmp_path: Path) -> None:
    """Behind one in transaction mode two processes would lead, in silence; a worker is not tried again."""
    with pooler(mode, postgres, tmp_path) as url:
        hooks = Lifespan()
        hooks.on_startup(anyio.lowlevel.checkpoint, lock=PostgresLock(url, "test/pooler"))
        with pytest.raises(LockRefused, match=r"a pooler or proxy, .* pass allow_pooler=True") as raised:
            async with LifespanManager(hooks):
                raise AssertionError("it did not start")  # pragma: no cover
        assert "secret" not in str(raised.value)


@pytest.mark.engines
async def test_a_pooler_in_session_mode_may_be_allowed(postgres: Engine, tmp_path: Path) -> None:
    """There, one connection of the server belongs to one of the client: the lock excludes, and is freed."""
    with pooler("session", postgres, tmp_path) as url:
        lock = PostgresLock(url, "test/session", allow_pooler=True)
        async with lock():
            for other in (lock, PostgresLock(postgres.url, "test/session")):
                with anyio.move_on_after(1.5) as limit:
                    async with other():
                        raise AssertionError("two are inside")  # pragma: no cover
                assert limit.cancelled_caught
        with anyio.fail_after(10):
            async with PostgresLock(postgres.url, "test/session")():
                pass


@pytest.mark.engines
async def test_a_severed_session_is_a_loss_at_the_release(postgres: Engine) -> None:
    """A hook blocked the event loop meanwhile."""
    with pytest.raises(LockLost, match="the connection was lost"):
        async with PostgresLock(postgres.url, "test/severed")():
            with psycopg.connect(postgres.url, autocommit=True) as db:
                db.execute("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and granted")


@pytest.mark.engines
async def test_a_lock_that_the_session_has_lost_is_a_loss_at_the_release(postgres: Engine) -> None:
    """Behind a pooler in transaction mode that was allowed, another session answers."""
    with pytest.raises(LockLost, match="the server does not know of it"):
        async with PostgresLock(postgres.url, "test/unlocked")() as watch:
            await watch._connection.execute("select pg_advisory_unlock_all()")


# --- Redis ---


@pytest.mark.engines
async def test_a_lease_that_was_forgotten_is_a_loss_at_the_release(redis_server: Engine) -> None:
    """FLUSHALL, or an empty replica after a failover."""
    with pytest.raises(LockLost, match="does not know of it"):
        async with RedisLock(redis_server.url, "test/forgotten")():
            redis.Redis.from_url(redis_server.url).delete("test/forgotten")


@pytest.mark.engines
@pytest.mark.parametrize("has_run_out", [True, False])
async def test_a_release_that_cannot_reach_redis_is_a_loss_if_the_lease_has_run_out(
    has_run_out: bool, redis_server: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the lease, no other process can have had the lock."""
    with pytest.raises(LockLost if has_run_out else redis.ConnectionError, match=r"lease has run out|gone"):
        async with RedisLock(redis_server.url, "test/unreachable", ttl=1 if has_run_out else 60)() as lease:
            monkeypatch.setattr(lease._lock, "release", AsyncMock(side_effect=redis.ConnectionError("gone")))
            if has_run_out:
                time.sleep(1.1)


# --- the engines' own locks ---


@pytest.mark.engines
async def test_a_lock_of_redis_py_is_a_lock(redis_server: Engine) -> None:
    """Without renewal: for a short start."""
    client = redis.asyncio.Redis.from_url(redis_server.url)
    hooks, seen = Lifespan(), list[object]()

    async def migrates() -> None:
        seen.append(await client.exists("test/own"))

    hooks.on_startup(migrates, lock=lambda: client.lock("test/own", timeout=10))
    async with LifespanManager(hooks):
        assert await client.exists("test/own") == 0
    assert seen == [1]
    await client.aclose()


# --- servers ---


@contextmanager
def served(server: str, workers: int, lock: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Serve the app of `contender` by several processes; yield the server's process and its port."""
    port = free_port()
    options = {
        "uvicorn": ["--port", f"{port}", "--workers", f"{workers}", "--timeout-graceful-shutdown", "6",
                    "--log-level", "warning"],
        "gunicorn": ["-b", f"127.0.0.1:{port}", "-w", f"{workers}", "-k", "uvicorn_worker.UvicornWorker",
                     "--log-level", "error"],
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", server, *options[server], "tests.locks.contender:app"],
        cwd=ROOT, env=os.environ | {"TESTS_LOCK": lock}, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:  # pragma: no cover - a server that hangs
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.servers
@pytest.mark.parametrize("stops", [1, pytest.param(10, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_a_server_that_stops_begins_no_job_anew(server: str, stops: int, tmp_path: Path) -> None:
    """Its processes are stopped within a second, in which the one that gets the lock does not begin."""
    for number in range(stops):
        journal = tmp_path / f"journal-{number}"
        with served(server, 3, f"lead file {tmp_path} test/stop {journal}") as (process, port):
            eventually(lambda port=port: answers(port))  # type: ignore[misc]
            eventually(lambda journal=journal: len(holders(journal)) == 1)  # type: ignore[misc]
            time.sleep(1.5)  # the others wait for the lock by now
            process.terminate()
            process.wait(PATIENCE)
        assert len(holders(journal)) == 1, f"stop {number}"


def answers(port: int) -> bool:
    """Return whether a server answers."""
    with suppress(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/")
        return True
    return False


@pytest.mark.servers
def test_a_process_that_drains_a_stream_may_begin_the_job(tmp_path: Path) -> None:
    """The limit that the documentation tells: its shutdown comes when the stream has ended, or uvicorn ends it."""
    journal = tmp_path / "journal"
    with served("uvicorn", 3, f"lead file {tmp_path} test/drain {journal}") as (process, port), ExitStack() as stack:
        eventually(lambda: answers(port))
        eventually(lambda: len(holders(journal)) == 1)
        pid = leader = holders(journal)[0]
        while pid == leader:
            stack.close()  # what the leader streams is closed again
            response = stack.enter_context(httpx.stream("GET", f"http://127.0.0.1:{port}/stream", timeout=PATIENCE))
            lines = response.iter_lines()  # an iterator that is dropped would close the stream
            pid = int(next(lines))
        time.sleep(1)
        process.terminate()
        eventually(lambda: len(holders(journal)) == 2)
        assert holders(journal)[1] == pid
        process.wait(PATIENCE)
    assert overlaps(journal) == []


@pytest.mark.engines
@pytest.mark.servers
@pytest.mark.parametrize("mode", ["start", "lead"])
@pytest.mark.parametrize("kind", ["file", "postgres", "redis"])
@pytest.mark.parametrize("server", ["uvicorn", "gunicorn"])
def test_four_workers_of_a_server(server: str, kind: str, mode: str, address: str, tmp_path: Path) -> None:
    """Their starts never overlap, and one of them leads; when it is killed, another one does."""
    journal = tmp_path / "journal"
    with served(server, 4, f"{mode} {kind} {address} test/{server}/{mode} {journal}"):
        if mode == "start":
            eventually(lambda: len(read(journal)) == 8)
            assert [what for _, what, _ in read(journal)] == ["enter", "leave"] * 4
        else:
            eventually(lambda: len(holders(journal)) == 1)
            os.kill(holders(journal)[0], signal.SIGKILL)
            eventually(lambda: len(holders(journal)) == 2)
            assert overlaps(journal) == []
    assert overlaps(journal) == []


@pytest.mark.engines
@pytest.mark.servers
@pytest.mark.parametrize("kind", ["file", "postgres", "redis"])
def test_a_rolling_reload_leaves_one_leader(kind: str, address: str, tmp_path: Path) -> None:
    """Uvicorn's SIGHUP: old and new workers overlap, and lead one after the other."""
    journal = tmp_path / "journal"
    environment = os.environ | {"TESTS_LOCK": f"lead {kind} {address} test/reload {journal}"}
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--port", "0", "--workers", "2", "--log-level", "warning",
         "tests.locks.contender:app"],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        eventually(lambda: len(holders(journal)) == 1)
        process.send_signal(signal.SIGHUP)
        eventually(lambda: len(set(holders(journal))) >= 2)
    finally:
        process.terminate()
        process.wait(PATIENCE)
    assert overlaps(journal) == []
