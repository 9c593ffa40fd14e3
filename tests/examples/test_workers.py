"""The examples of several workers, with the real packages and, for Kubernetes, the part of its API that they use."""

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware
from tests.clock import JumpingLoop
from tests.test_readme import BESIDE, ROOT, run

CHAPTER = BESIDE["docs/processes.md"].partition("\n## Several workers\n")[2].partition("\n## ")[0]


def block(heading: str) -> str:
    """Return the program under a heading of the chapter."""
    (program,) = re.findall(rf"^### {heading}\n.*?^```python\n(.*?)^```", CHAPTER, re.DOTALL | re.MULTILINE)
    return str(program)


def example(heading: str) -> dict[str, Any]:
    """Run the program under a heading, and return its names."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block(heading), "README.md", "exec"), names)
    return names


ALEMBIC = """
import logging
import anyio
from pathlib import Path

from asgi_lifespan_mw import LifespanManager

config = Config("alembic.ini")
command.init(config, "migrations")
ini = Path("alembic.ini")
ini.write_text(ini.read_text().replace("driver://user:pass@localhost/dbname", "sqlite:///shop.db"))
config = Config("alembic.ini")
command.revision(config, "first")


async def main():
    async with LifespanManager(served):
        command.current(config)
    print("disabled" if logging.getLogger("asgi_lifespan_mw").disabled else "enabled")
    env = Path("migrations/env.py")
    silencing = "fileConfig(config.config_file_name)"
    assert silencing in env.read_text()
    env.write_text(env.read_text().replace(silencing, silencing[:-1] + ", disable_existing_loggers=False)"))
    logging.getLogger("asgi_lifespan_mw").disabled = False
    async with LifespanManager(served):
        print("disabled" if logging.getLogger("asgi_lifespan_mw").disabled else "enabled")


anyio.run(main)
"""


@pytest.mark.slow
def test_alembic_migrates_at_the_start(tmp_path: Path) -> None:
    """Its ``env.py`` disables loggers unless it is told not to, so the example runs in a process of its own."""
    pytest.importorskip("alembic")
    pytest.importorskip("filelock")
    printed = run(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{block('Alembic')}{ALEMBIC}", tmp_path)
    assert re.search(r"^\w+ \(head\)$", printed, re.MULTILINE)
    assert re.findall(r"^(?:dis|en)abled$", printed, re.MULTILINE) == ["disabled", "enabled"]
    assert (tmp_path / "shop.db").exists()


def leaders(caplog: pytest.LogCaptureFixture) -> int:
    """Return how often a worker has become the leader."""
    return sum("leads: it holds the lock" in record.getMessage() for record in caplog.records)


async def has_led(caplog: pytest.LogCaptureFixture, times: int) -> None:
    """Wait until workers have become the leader so often."""
    while leaders(caplog) < times:
        await anyio.sleep(0.01)  # pragma: no cover - it may lead at once


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_one_process_has_a_scheduler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two apps that know nothing of each other; when the one that leads stops, the other leads."""
    pytest.importorskip("apscheduler")
    pytest.importorskip("filelock")
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    with anyio.fail_after(10):
        async with AsyncExitStack() as second:
            async with LifespanManager(example("APScheduler")["app"]):
                await has_led(caplog, 1)
                await second.enter_async_context(LifespanManager(example("APScheduler")["app"]))
                await anyio.sleep(0.2)  # it tries, and may not
                assert leaders(caplog) == 1
            await has_led(caplog, 2)


class Leases:
    """Kubernetes's API for one Lease: a write needs the version that was read last.

    Attributes:
        lease: What is stored; None at first.
        is_cut: Whether requests are lost.
        answer: What is answered instead; None for the right answer.
    """

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.is_cut = False
        self.answer: httpx.Response | None = None

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a request."""
        if self.is_cut:
            await anyio.sleep(1)
            raise httpx.ConnectTimeout("no answer")
        if self.answer is not None:
            return self.answer
        assert request.url.path.startswith("/apis/coordination.k8s.io/v1/namespaces/shop/leases")
        if request.method == "GET":
            return httpx.Response(404) if self.lease is None else httpx.Response(200, json=self.lease)
        body = json.loads(request.content)
        stored = "" if self.lease is None else self.lease["metadata"]["resourceVersion"]
        if body["metadata"].get("resourceVersion", "") != stored:
            return httpx.Response(409)
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": f"{stored}*"}}
        return httpx.Response(200, json=self.lease)


@asynccontextmanager
async def pod(leases: Leases, name: str, log: list[str]) -> AsyncIterator[None]:
    """Run an app with a worker that leads while it holds the Lease."""
    app = LifespanMiddleware(Starlette())
    async with httpx.AsyncClient(transport=httpx.MockTransport(leases), base_url="http://kubernetes") as api:

        @app.worker(leader=example("A lock of your own")["KubernetesLease"](api, "shop", "scheduler", name))
        async def works() -> None:
            log.append(f"{anyio.current_time() - began:.0f} {name} begins")
            try:
                await anyio.sleep_forever()
            finally:
                log.append(f"{anyio.current_time() - began:.0f} {name} ends")

        began = anyio.current_time()
        async with LifespanManager(app):
            yield


JUMPING = pytest.mark.parametrize(
    "anyio_backend", [pytest.param(("asyncio", {"loop_factory": JumpingLoop}), id="asyncio")]
)


@JUMPING
async def test_a_lease_has_one_holder() -> None:
    """A pod that stops frees the lease for the next one."""
    leases, log = Leases(), list[str]()
    async with AsyncExitStack() as second:
        async with pod(leases, "a", log):
            await anyio.sleep(1)
            await second.enter_async_context(pod(leases, "b", log))
            await anyio.sleep(100)
            assert log == ["0 a begins"]
        await anyio.sleep(10)
        assert [line.split(maxsplit=1)[1] for line in log] == ["a begins", "a ends", "b begins"]


@JUMPING
async def test_a_lease_of_a_dead_holder_runs_out() -> None:
    """After its 15 seconds, by the clock of the one that waits; a second later the worker begins."""
    leases, log = Leases(), list[str]()
    async with httpx.AsyncClient(transport=httpx.MockTransport(leases), base_url="http://kubernetes") as api:
        assert await example("A lock of your own")["KubernetesLease"](api, "shop", "scheduler", "dead").take()
    async with pod(leases, "a", log):
        await anyio.sleep(30)
    assert log == ["16 a begins", "30 a ends"]


@JUMPING
async def test_a_lease_that_another_holder_took_is_lost() -> None:
    """As soon as it is to be renewed: the version of the other one's write is unknown."""
    leases, log = Leases(), list[str]()
    async with pod(leases, "a", log):
        await anyio.sleep(1)
        assert leases.lease is not None
        leases.lease = {**leases.lease, "metadata": {"resourceVersion": "another"}}
        await anyio.sleep(5)
    assert log == ["0 a begins", "3 a ends"]


@JUMPING
async def test_a_lease_that_cannot_be_renewed_is_lost_before_it_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    """After two thirds of its time the worker is stopped; it leads again when the API can be reached."""
    leases, log = Leases(), list[str]()
    async with pod(leases, "a", log):
        await anyio.sleep(1)
        leases.is_cut = True
        await anyio.sleep(30)
        leases.is_cut = False
        await anyio.sleep(60)
    begins, lost, again, _ = (int(line.split()[0]) for line in log)
    assert (begins, lost) == (0, 10)
    assert again <= 31 + 30 + 1
    assert "lost its lock" in caplog.text


@JUMPING
async def test_a_lease_whose_renewal_breaks_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """The answer of a proxy is not JSON: the group in the lock cancels what it holds, and the worker is stopped."""
    leases, log = Leases(), list[str]()
    async with pod(leases, "a", log):
        await anyio.sleep(1)
        lease, leases.lease = leases.lease, None
        leases.answer = httpx.Response(200, text="<html>")
        await anyio.sleep(4)
        assert log == ["0 a begins", "3 a ends"]
        leases.lease, leases.answer = lease, None
    assert "lost its lock" in caplog.text
