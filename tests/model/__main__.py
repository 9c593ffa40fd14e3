"""Checks the middleware against the model: ``python -m tests.model asyncio`` runs every plan, and prints what is wrong.

``python -m tests.model trio 'app.crashes mount.hangs_at_stop server.cancels_at_3'`` runs one plan again, in full view.
"""

import argparse
import logging
import sys
from typing import Any, Final

import anyio

from tests.conftest import VIRTUAL
from tests.model.check import check_every_plan, complaints
from tests.model.plan import Plan
from tests.model.world import perform

MOST_SHOWN = 20
QUIET: Final[dict[str, dict[str, Any]]] = {"asyncio": {"debug": False}}
"""What makes an event loop faster, by its backend."""


async def run_one(plan: Plan) -> int:
    """Run a plan, print what came of it, and tell how much is wrong."""
    outcome = await perform(plan)
    print(outcome)
    found = complaints(plan, outcome)
    print("\n".join(found or ["as expected"]))
    return len(found)


async def run_all(part: int, parts: int) -> int:
    """Run every plan, or one of so many parts of them, print what is wrong, and tell how much."""
    runs = wrong = 0
    async for plan, found in check_every_plan(part, parts):
        runs += 1
        wrong += bool(found)
        if found and wrong <= MOST_SHOWN:
            print(f"{plan}\n  " + "\n  ".join(found), flush=True)
    print(f"{runs} runs, {wrong} of them wrong")
    return wrong


def main() -> int:
    """Run what the command line names; the exit status is 1 if anything is wrong."""
    backends: dict[str, Any] = {str(param.id): param.values[0] for param in VIRTUAL}
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("backend", choices=backends)
    parser.add_argument("plan", nargs="?", type=Plan.parse, help="a plan in its printed form; every plan without it")
    parser.add_argument(
        "--part", nargs=2, type=int, default=(0, 1), metavar=("I", "N"), help="only the I-th of N parts"
    )
    arguments = parser.parse_args()
    name, options = backends[arguments.backend]()
    if arguments.plan is None:
        logging.getLogger("asgi_lifespan_mw").disabled = True  # it has a failure to tell of in most runs
        wrong = anyio.run(run_all, *arguments.part, backend=name, backend_options={**options, **QUIET.get(name, {})})
    else:
        logging.basicConfig(level=logging.DEBUG)
        wrong = anyio.run(run_one, arguments.plan, backend=name, backend_options=options)
    return int(wrong > 0)


if __name__ == "__main__":  # pragma: no cover - the tests import it, or run it without coverage
    sys.exit(main())
