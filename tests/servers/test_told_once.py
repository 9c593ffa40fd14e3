"""A failure is told once: what real servers print for it, counted beside what they print for the bare application."""

import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.servers.harness import GRANIAN, GUNICORN_ASGI, GUNICORN_UVICORN, HYPERCORN, HYPERCORN_TRIO, UVICORN, Setup
from tests.servers.harness import Server as Process

pytestmark = pytest.mark.servers

SETUPS: Final = (UVICORN, HYPERCORN, HYPERCORN_TRIO, GRANIAN, GUNICORN_UVICORN, GUNICORN_ASGI)
HEADLINE: Final = {
    "hook": r"startup failed in hook 'connect' \(tests/apps/told\.py:\d+\): OSError: no such host: db\.internal",
    "app": r"startup failed in app FastAPI: OSError: no such host: db\.internal",
    "mount": r"startup failed in mount '/admin': OSError: no such host: db\.internal",
    "timeout": r"startup timed out after 0\.2 s in hook 'hang' \(tests/apps/told\.py:\d+\); it was at .* in hang",
    "stop": r"shutdown failed in hook 'closed' \(.*told\.py:\d+\): OSError: no such host: db\.internal",
    "crash": r"crash in hook 'watched' \(tests/apps/told\.py:\d+\): OSError: no such host: db\.internal",
}


STARTS: Final = ("hook", "app", "mount")
"""The startups that fail with an exception. Granian prints what is raised to it again."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a server and its application wrote, to standard output and standard error."""

    text: str

    @property
    def tracebacks(self) -> int:
        """How many tracebacks there are; those of the members of groups count too."""
        return self.text.count("Traceback (most recent call last)")

    @property
    def failing_lines(self) -> int:
        """How often the line is shown that failed."""
        return self.text.count('raise OSError(f"no such host: {host}")')

    @property
    def lines(self) -> int:
        """How many lines there are."""
        return len(self.text.splitlines())

    @property
    def frames_of_ours(self) -> int:
        """How many frames of this package the tracebacks show."""
        return len(re.findall(r'File ".*/asgi_lifespan_mw/', self.text))


def output_of(setup: Setup, app: str, log: str, monkeypatch: pytest.MonkeyPatch) -> Output:
    """Serve an application of ``tests.apps.told`` until it has failed, and return the output."""
    monkeypatch.setenv("TOLD_LOG", log)
    with Process(setup, f"tests.apps.told:{app}", Path()) as process:
        if app.endswith(("_stop", "_crash")):
            process.wait_until_it_serves()
        if app.endswith("_crash"):
            with suppress(httpx.HTTPError):  # hypercorn on trio goes down with the bare application
                process.request("GET", "/crash")
            if app == "in_crash":
                process.wait_for_error("crash in hook")
        elif not app.endswith("_stop"):
            process.wait()
    return Output(str(process))


BARE: Final = {
    **dict.fromkeys(("hook", "app", "mount"), "bare"),
    **{case: f"bare_{case}" for case in ("timeout", "stop", "crash")},
}
TABLE: Final = re.findall(
    r"^\| (\S+) \| (\S+) \| (\d+) \| (\d+) \| (\d+) \|$",
    (Path(__file__).parent.parent.parent / "docs" / "servers.md").read_text(),
    re.MULTILINE,
)
_bare: dict[tuple[str, str], Output] = {}


def output_of_bare(setup: Setup, case: str, monkeypatch: pytest.MonkeyPatch) -> Output:
    """Return the output for the bare application, which three of the cases share."""
    key = setup.name, BARE[case]
    if key not in _bare:
        _bare[key] = output_of(setup, BARE[case], "", monkeypatch)
    return _bare[key]


@pytest.mark.parametrize("case", HEADLINE)
@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_a_failure_is_told_once(setup: Setup, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failing line is in one traceback of ours, and the output is shorter than that of the bare application."""
    bare = output_of_bare(setup, case, monkeypatch)
    outputs = [output_of(setup, f"in_{case}", log, monkeypatch) for log in ("", "basicConfig")]
    counted = [str(output.tracebacks) for output in (bare, *outputs)]
    assert [row[2:] for row in TABLE if row[:2] == (setup.name, case)] == [tuple(counted)]
    for has_handler, output in enumerate(outputs):
        # In the log, and from the server. Hypercorn on trio prints no failed shutdown: the log has the message instead,
        # unless it has the traceback already.
        headlines = 1 if setup is HYPERCORN_TRIO and case in ("stop", "crash") and has_handler else 2
        assert len(re.findall(HEADLINE[case], output.text)) == headlines, output.text
        if bare.tracebacks:  # gunicorn's own worker says nothing of a crash
            assert output.tracebacks <= bare.tracebacks, output.text
            assert output.lines <= bare.lines, output.text
        assert output.failing_lines == (case != "timeout") + (setup is GRANIAN and case in STARTS), output.text
        assert output.frames_of_ours <= (1 if sys.version_info >= (3, 12) else 2), output.text
