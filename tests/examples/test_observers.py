"""The observers among the examples, with the real packages."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plans import Boom
from tests.server import RecordingServer
from tests.test_readme import BESIDE, ROOT, run
from tests.usages import lived, serving

CHAPTER = BESIDE["docs/observing.md"].partition("\n## Observe what starts\n")[2].partition("\n## ")[0]


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio: observers know of no event loop."""
    return "asyncio"


def block(heading: str) -> str:
    """Return the program under a heading of the chapter."""
    (program,) = re.findall(rf"^### {heading}\n.*?^```python\n(.*?)^```", CHAPTER, re.DOTALL | re.MULTILINE)
    return str(program)


def example(heading: str) -> dict[str, Any]:
    """Run the program under a heading, and return its names."""
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block(heading), "README.md", "exec"), names)
    return names


def breaks() -> None:
    """Fail, as a hook that has no database does."""
    raise Boom("no database")


async def failed(app: Any) -> None:
    """Run a lifespan whose startup fails."""
    app.on_startup(breaks)
    with pytest.raises(Boom):
        await RecordingServer().run(app)


async def test_opentelemetry_has_a_span_for_each_start_and_stop() -> None:
    """A failed start has the status of an error, with its reason."""
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    names = example("OpenTelemetry")
    names["provider"].add_span_processor(export.SimpleSpanProcessor(memory))
    await lived(names["app"])
    assert [span.name for span in memory.get_finished_spans()] == ["starting app Starlette", "stopping app Starlette"]
    memory.clear()
    await failed(names["app"])
    (span,) = memory.get_finished_spans()
    assert "breaks" in span.name
    assert "no database" in span.status.description
    assert names["spans"] == {}


@pytest.fixture
def registry() -> Iterator[Any]:
    """Prometheus's own registry, which takes each name once in a process."""
    registry = pytest.importorskip("prometheus_client").REGISTRY

    def forget() -> None:
        for gauge in {gauge for name, gauge in registry._names_to_collectors.items() if name.startswith("lifespan_")}:
            registry.unregister(gauge)

    forget()
    yield registry
    forget()


async def test_prometheus_shows_what_is_up(registry: Any) -> None:
    """And how long its start took."""
    app = example("Prometheus")["app"]
    labels = {"unit": "app Starlette"}
    async with serving(app):
        assert registry.get_sample_value("lifespan_unit_up", labels) == 1
        assert registry.get_sample_value("lifespan_unit_start_seconds", labels) > 0
    assert registry.get_sample_value("lifespan_unit_up", labels) == 0


async def test_structlog_writes_each_change() -> None:
    """With the time of the start, once there is one."""
    testing = pytest.importorskip("structlog.testing")
    app = example("structlog")["app"]
    with testing.capture_logs() as entries:
        await lived(app)
    assert [entry["outcome"] for entry in entries] == ["starting", "started", "stopping", "stopped"]
    assert entries[0]["start_seconds"] is None
    assert entries[1]["start_seconds"] > 0


SENTRY = """
from sentry_sdk.transport import Transport


class Prints(Transport):
    def capture_envelope(self, envelope):
        for item in envelope.items:
            print(item.payload.json["message"])


sentry_sdk.init(
    dsn="http://key@localhost/1", transport=Prints, default_integrations=False, auto_enabling_integrations=False
)

import anyio
from tests.server import RecordingServer


@app.on_startup(name="database")
def breaks():
    raise OSError("no database")


async def main():
    try:
        await RecordingServer().run(app)
    except OSError:
        pass


anyio.run(main)
"""


@pytest.mark.slow
def test_sentry_is_sent_what_failed(tmp_path: Path) -> None:
    """By its name; in a process, since Sentry's SDK stays in one for good."""
    pytest.importorskip("sentry_sdk")
    program = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{block('Sentry')}{SENTRY}"
    (line,) = run(program, tmp_path).splitlines()
    assert re.match(r"hook 'database' \(.*\) failed: .*no database", line)


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket on which systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


async def test_systemd_is_told_when_the_app_is_ready(systemd: socket.socket) -> None:
    """After all units have started; and which one is at work."""
    await lived(example("systemd")["app"])
    messages = [systemd.recv(1000).decode() for _ in range(5)]
    status = "STATUS={} app Starlette\nEXTEND_TIMEOUT_USEC=30000000"
    assert messages == [
        status.format("starting"),
        status.format("started"),
        "READY=1",
        "STOPPING=1\n" + status.format("stopping"),
        status.format("stopped"),
    ]
    with pytest.raises(BlockingIOError):
        systemd.recv(1000)
