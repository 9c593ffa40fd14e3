"""The whole middleware against a model: every plan of up to three units, under everything that a server does."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgi_lifespan_mw import LifespanMiddleware
from asgi_lifespan_mw._run.run import Run
from asgi_lifespan_mw._units.supervisor import Supervisor
from asgi_lifespan_mw._units.unit import Unit
from tests.conftest import VIRTUAL
from tests.model import __main__ as command
from tests.model.behaviours import APPS, Behaviour
from tests.model.check import check_every_plan, complaints
from tests.model.plan import KINDS, SERVERS, Plan, plans
from tests.model.world import perform

ROOT = Path(__file__).parent.parent.parent

PARTS = 16
"""The check of every plan takes minutes of a core. It is divided, and each part has a process of its own: it takes 15 s
where nothing else runs, so that even a machine that is much busier ends it before the time for any test is up."""
ON_EACH = {"asyncio": range(PARTS), "trio": range(0, PARTS, 4)}
"""The parts that are checked: every plan on asyncio, and each fourth plan of every shape on trio."""
QUICK = 0
"""The part that is checked without the mark `exhaustive`: each sixteenth plan of every shape."""
LEAST_RUNS = 3_000
"""Runs in each part: fewer would mean that something is left out."""


@pytest.fixture(params=VIRTUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Loops on a virtual clock."""
    return request.param()


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Thousands of failures are logged here, which nobody reads."""
    logger = logging.getLogger("asgi_lifespan_mw")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.parametrize(
    ("backend", "part"),
    [
        pytest.param(backend, part, marks=[] if part == QUICK else pytest.mark.exhaustive)
        for backend, parts in ON_EACH.items()
        for part in parts
    ],
)
def test_every_plan(backend: str, part: int) -> None:
    """Answers, order, errors and tasks are as they must be, whatever the units and the server do."""
    # In another process without coverage, which would double the time.
    check = subprocess.run(
        [sys.executable, "-m", "tests.model", backend, "--part", str(part), str(PARTS)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert check.returncode == 0, check.stdout + check.stderr
    assert int(check.stdout.split()[0]) > LEAST_RUNS


async def test_every_plan_of_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in this process, with eager tasks too."""
    monkeypatch.setattr("tests.model.check.SHAPES", [("hook",), ("app",)])
    wrong = {str(plan): found async for plan, found in check_every_plan() if found}
    assert wrong == {}


UNITS = st.tuples(st.just("hook"), st.sampled_from([*KINDS["hook"]]))
MEMBERS = st.tuples(st.just("member"), st.sampled_from([*KINDS["member"]]))
APP = st.tuples(st.just("app"), st.sampled_from([*APPS]))
MOUNTS = st.tuples(st.just("mount"), st.sampled_from([*APPS]))
DOINGS = st.one_of(st.sampled_from(["well", *SERVERS]), st.integers(0, 40).map("cancels_at_{}".format))


LINGERS = ("mount", "swallows_cancellation_after_its_answer")


@example(
    hooks=[],
    members=[],
    app=("app", "app_well"),
    mounts=[("mount", "stays_busy_after_its_answer"), LINGERS, LINGERS],
    server="well",
)
@example(
    hooks=[("hook", "stop_function_well")],
    members=[("member", "function_fails"), ("member", "context_swallows_cancellation_at_start")],
    app=("app", "app_well"),
    mounts=[],
    server="well",
)
@given(
    hooks=st.lists(UNITS, max_size=4),
    members=st.lists(MEMBERS, max_size=4),
    app=APP,
    mounts=st.lists(MOUNTS, max_size=6),
    server=DOINGS,
)
def test_longer_plans(hooks: list[Any], members: list[Any], app: Any, mounts: list[Any], server: str) -> None:
    """Up to fifteen units, some in a concurrent group, others mounted in each other."""
    plan = Plan.of(*hooks, *members, app, *mounts, server=server)
    for param in VIRTUAL:
        name, options = param.values[0]()  # type: ignore[operator]
        outcome = anyio.run(perform, plan, backend=name, backend_options=options)
        assert complaints(plan, outcome) == [], f"again: python -m tests.model {param.id} '{plan}'"


def test_a_plan_is_read_from_its_printed_form() -> None:
    """A run that failed can be run again from what was printed."""
    for plan in [*plans("hook", "app"), *plans("app", "mount")]:
        assert Plan.parse(str(plan.under("cancels_at_3"))) == plan.under("cancels_at_3")


@pytest.mark.parametrize("backend", ["asyncio", "eager", "trio"])
def test_a_plan_is_run_again_from_its_printed_form(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command shows what came of it, and what is wrong with that."""
    plan = "hook.context_well app.crashes mount.hangs_at_stop server.clears_state"
    monkeypatch.setattr(sys, "argv", ["tests.model", backend, plan])
    assert command.main() == 0
    assert "as expected" in capsys.readouterr().out

    monkeypatch.setitem(APPS, "crashes", Behaviour("crashes", APPS["crashes"].run, start="Boom"))
    assert command.main() == 1
    assert "answers: ['startup.complete', 'shutdown.failed'], expected ['startup.failed']" in capsys.readouterr().out


def test_what_is_wrong_with_a_check_of_every_plan_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan in its printed form, what is wrong with it, and how many runs there were."""
    monkeypatch.setattr("tests.model.check.SHAPES", [("app",)])
    monkeypatch.setattr(sys, "argv", ["tests.model", "asyncio"])
    monkeypatch.setitem(APPS, "returns_early", Behaviour("returns_early", APPS["returns_early"].run, stop="Boom"))
    assert command.main() == 1
    output = capsys.readouterr().out
    assert "app.returns_early server.well\n  journal: ['+app1'], expected ['+app1', '-app1']" in output
    assert "of them wrong" in output


# --- the check notices what is broken ---


async def _stop_nothing(units: Supervisor) -> None:
    """A stop that is forgotten."""


async def _stop_in_order(units: Supervisor) -> None:
    """A stop in the order of the start."""
    units._batches.reverse()
    await _stop(units)


def _fail_in_silence(unit: Unit, error: BaseException) -> None:
    """A failure that nobody is told of."""
    unit.stopped()  # pragma: no cover - what is exhaustive comes to it


async def _start_and_forget(run: Run) -> Run:
    """A startup that drops what it raises."""
    with suppress(Exception):
        await _start(run)
    return run


async def _answer_twice(app: LifespanMiddleware, scope: Any, receive: Any, send: Any) -> None:
    """Each answer given twice."""

    async def twice(message: Any) -> None:
        await send(message)
        await send(message)

    await _lifespan(app, scope, receive, twice)


_stop, _start, _lifespan = Supervisor.stop, Run.__aenter__, LifespanMiddleware._lifespan


@pytest.mark.parametrize(
    ("cls", "name", "broken"),
    [
        (Supervisor, "stop", _stop_nothing),
        (Supervisor, "stop", _stop_in_order),
        (Supervisor, "stop_shielded", _stop_nothing),
        (Unit, "fail", _fail_in_silence),
        (Run, "__aenter__", _start_and_forget),
        (LifespanMiddleware, "_lifespan", _answer_twice),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
async def test_the_check_notices(cls: type, name: str, broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A middleware in which one thing is broken does not pass."""
    monkeypatch.setattr(cls, name, broken)
    monkeypatch.setattr("tests.model.check.SHAPES", [("app", "mount")])
    async with aclosing(check_every_plan()) as results:
        async for _, found in results:
            if found:
                return
    raise AssertionError
