"""A server's side of the lifespan, in the test's own event loop."""

from typing import Any

import anyio

from asgi_lifespan_mw._types import ASGIApp


class RecordingServer:
    """Drives an app's lifespan as a server does, and keeps what it is sent.

    Attributes:
        sent: The messages, as they came.
        scope: The lifespan scope; a test may change it before `run`.
        started: Set when the startup was answered with success.
        may_stop: The shutdown is sent when this is set; it is from the beginning.
    """

    def __init__(self, *, holds_on: bool = False, **scope: Any) -> None:
        """Make a server.

        Args:
            holds_on: Serve until the test sets `may_stop`.
            scope: Entries of the lifespan scope, beside or in place of the usual ones.
        """
        self.sent: list[dict[str, Any]] = []
        asgi = {"version": "3.0", "spec_version": "2.0"}
        self.scope: dict[str, Any] = {"type": "lifespan", "asgi": asgi, "state": {}}
        self.scope.update(scope)
        self.started = anyio.Event()
        self.may_stop = anyio.Event()
        if not holds_on:
            self.may_stop.set()
        self._received = 0

    @property
    def answers(self) -> list[str]:
        """The types of the messages, without the ``lifespan.`` that they share."""
        return [message["type"].removeprefix("lifespan.") for message in self.sent]

    @property
    def state(self) -> dict[str, Any]:
        """The lifespan state."""
        state: dict[str, Any] = self.scope["state"]
        return state

    async def run(self, app: ASGIApp) -> None:
        """See one lifespan of `app` through."""
        await app(self.scope, self.receive, self.send)

    async def receive(self) -> dict[str, Any]:
        """Give the startup, then the shutdown when it may be."""
        if self._received == 0:
            self._received += 1
            return {"type": "lifespan.startup"}
        assert self._received == 1, "nothing comes after the shutdown"
        await self.may_stop.wait()
        self._received += 1  # a `receive` that is cancelled before this loses nothing
        return {"type": "lifespan.shutdown"}

    async def send(self, message: dict[str, Any]) -> None:
        """Keep a message."""
        self.sent.append(message)
        if message["type"] == "lifespan.startup.complete":
            self.started.set()


async def request(app: ASGIApp, path: str = "/", **scope: Any) -> list[dict[str, Any]]:
    """Send one HTTP request without a body to `app`, and return the messages of its answer."""
    sent: list[dict[str, Any]] = []
    body = [{"type": "http.request", "body": b"", "more_body": False}]
    answered = anyio.Event()

    async def receive() -> dict[str, Any]:  # pragma: no cover - few apps ask for an empty body, or for the disconnect
        if body:
            return body.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            answered.set()

    usual = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [(b"host", b"test")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app({**usual, **scope}, receive, send)
    return sent
