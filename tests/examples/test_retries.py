"""The example of retries, with the real stamina: a hook is called again, and starts once."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asgi_lifespan_mw import LifespanManager
from tests.test_readme import BESIDE

stamina = pytest.importorskip("stamina")
CHAPTER = BESIDE["docs/failures.md"].partition("\n## Retry a start\n")[2].partition("\n## ")[0]


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    """Stamina's own mode for tests: no pauses, and as many attempts as in production."""
    with stamina.set_testing(True, attempts=5):
        yield


def example(failures: int, calls: list[str]) -> dict[str, Any]:
    """Run the program, and have its database refuse so many times what each hook needs."""
    (program,) = re.findall(r"^```python\n(.*?)^```", CHAPTER, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(program, "README.md", "exec"), names)

    async def migrate_tables() -> None:
        calls.append("migrate")
        if calls.count("migrate") <= failures:
            raise ConnectionError("no database")

    @asynccontextmanager
    async def connect() -> AsyncIterator[str]:
        calls.append("connect")
        if calls.count("connect") <= failures:
            raise ConnectionError("no database")
        yield "a connection"
        calls.append("disconnect")

    names.update(migrate_tables=migrate_tables, connect=connect)
    return names


async def test_what_fails_at_first_is_tried_again() -> None:
    """The function, and what the context opens; what is opened is closed once."""
    calls: list[str] = []
    app = example(2, calls)["app"]
    async with LifespanManager(app) as manager:
        assert manager.state == {"database": "a connection"}
    assert calls == ["migrate"] * 3 + ["connect"] * 3 + ["disconnect"]


async def test_what_fails_each_time_fails_the_startup() -> None:
    """With its own error, after the last attempt."""
    calls: list[str] = []
    with pytest.raises(ConnectionError, match="no database"):
        await LifespanManager(example(5, calls)["app"]).__aenter__()
    assert calls == ["migrate"] * 5
