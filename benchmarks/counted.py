"""The work that `callgrind` counts: ``counted.py requests WRAPPER SUSPENSIONS CALLS`` and the like."""

import asyncio
import gc
import sys
from typing import Any

import subjects


def requests(wrapper: str, suspensions: str, calls: str) -> None:
    """Requests without an event loop, after a lifespan: whatever is suspended is resumed at once."""
    app = subjects.WRAPPERS[wrapper](subjects.app_that_suspends(int(suspensions)))
    if wrapper == subjects.OURS:  # else the first request warns of the lifespan that is missing
        asyncio.run(subjects.lifespan(app))
    scope = {"type": "http", "state": {}, "path": "/", "root_path": ""}
    for _ in range(int(calls)):
        coroutine = app(scope, None, None)
        try:
            while True:
                coroutine.send(None)
        except StopIteration:
            pass


def answers(wrapper: str, suspensions: str, calls: str) -> None:
    """Requests on an event loop that are answered, for a wrapper that needs both."""
    inner = subjects.app_that_suspends(int(suspensions))

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def main() -> None:
        app = subjects.WRAPPERS[wrapper](answer)
        for _ in range(int(calls)):
            scope = {"type": "http", "state": {}, "path": "/", "root_path": "", "headers": [], "method": "GET"}
            await app(scope, receive, send)

    asyncio.run(main())


def lifespans(of: str, mounts: str, count: str) -> None:
    """Lifespans, one after the other, of one app with many mounts."""
    makers = {
        "ours": subjects.with_mounts,
        "dispatcher": subjects.dispatched,
        "ours, Starlettes": subjects.with_starlettes,
        "recipe": subjects.recipe,
    }
    app = makers[of](int(mounts))
    for _ in range(int(count)):
        asyncio.run(subjects.lifespan(app))


if __name__ == "__main__":
    gc.disable()  # when it runs depends on all that was made before
    work, *arguments = sys.argv[1:]
    {"requests": requests, "answers": answers, "lifespans": lifespans}[work](*arguments)
