"""The page about locks: its table, its lines of the log, and its metric are those of the code."""

import importlib.metadata
import inspect
import logging
import re
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from asgi_lifespan_mw import LifespanManager, LifespanMiddleware
from asgi_lifespan_mw.locks import FileLock, PostgresLock, RedisLock

PAGE = (Path(__file__).parent.parent.parent / "docs/locks.md").read_text(encoding="utf-8")


@pytest.fixture
def anyio_backend() -> str:
    """One is enough."""
    return "asyncio"


def test_the_table_of_the_page_has_each_lock_with_its_extra() -> None:
    """As it is called, and with what installs its library."""
    rows = PAGE.partition("<!-- table: engines -->")[2].partition("<!-- end -->")[0].strip().splitlines()[2:]
    shown = {cells[0].strip(" `"): cells[1].strip(" `") for cells in (row.strip("|").split("|") for row in rows)}
    extras = dict(zip((FileLock, PostgresLock, RedisLock), ("file", "postgres", "redis"), strict=True))
    assert shown == {
        f"{lock.__name__}({', '.join(str(one.replace(annotation=one.empty)) for one in _arguments(lock))})": extra
        for lock, extra in extras.items()
    }
    requirements = importlib.metadata.requires("asgi-lifespan-mw") or []
    for extra in extras.values():
        assert any(requirement.endswith(f"extra == '{extra}'") for requirement in requirements)


def _arguments(lock: type) -> list[inspect.Parameter]:
    return [*inspect.signature(lock).parameters.values()]


@pytest.mark.slow
async def test_the_lines_of_the_page_are_those_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker that waits for its lock, leads, and stops."""
    caplog.set_level(logging.INFO, "asgi_lifespan_mw")
    lock = FileLock(tmp_path / "lock")
    app = LifespanMiddleware(Starlette())
    begun = anyio.Event()

    @app.worker(leader=lock)
    async def schedule() -> None:
        begun.set()
        await anyio.sleep_forever()

    held = lock()
    await held.__aenter__()
    async with LifespanManager(app):
        await anyio.sleep(0.7)
        await held.__aexit__(None, None, None)
        with anyio.fail_after(10):
            await begun.wait()
    lines = [f"{one.levelname} {one.getMessage()}" for one in caplog.records if "lock" in one.getMessage()]
    (shown,) = re.findall(r"^```text\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert [re.sub(r"\(.*?\)", "(shop/jobs.py:12)", line) for line in lines] == shown.splitlines()


async def test_the_metric_of_the_page_says_who_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 while the worker runs, then 0."""
    pytest.importorskip("prometheus_client")
    monkeypatch.chdir(tmp_path)
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "Gauge" in block]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(program.partition("@app.worker")[0] + WORKS, "page", "exec"), names)

    def value() -> float | None:
        [metric] = names["registry"].collect()
        return next((sample.value for sample in metric.samples if "schedule" in sample.labels["unit"]), None)

    with anyio.fail_after(10):
        async with LifespanManager(names["app"]):
            await names["begun"].wait()
            assert value() == 1
    assert value() == 0


WORKS = """
import anyio
begun = anyio.Event()
async def works() -> None:
    begun.set()
    await anyio.sleep_forever()
app.worker(leader=FileLock("scheduler.lock"), name="schedule")(works)
"""
