"""The chapter on deploying: its commands run, its files hold together, and its table of open streams is shown."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apps.deployed import SHUTDOWN_TIMEOUT, STARTUP_TIMEOUT, api
from tests.servers.harness import (
    GRANIAN,
    GUNICORN_ASGI,
    GUNICORN_UVICORN,
    HYPERCORN,
    HYPERCORN_TRIO,
    UVICORN,
    UVICORN_WORKERS,
    Server,
    Setup,
)
from tests.servers.units import TEA_ROOM, started, stopped
from tests.test_readme import BESIDE

CHAPTER = BESIDE["docs/deploying.md"]
SERVED: dict[str, Setup] = {
    "uvicorn": UVICORN,
    "hypercorn": HYPERCORN,
    "granian": GRANIAN,
    "gunicorn": GUNICORN_UVICORN,
}


def block(language: str) -> str:
    """Return the one fenced block of a language in the chapter."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", CHAPTER, re.DOTALL | re.MULTILINE)
    return str(text)


def with_options(server: Setup, *options: str) -> Setup:
    """Return a setup with these options added; a worker class takes the place of the one that is there."""
    base = server.arguments
    if "-k" in options:
        place = base.index("-k")
        base = base[:place] + base[place + 2 :]
    return replace(server, arguments=(*base, *options))


def setup_of(command: list[str]) -> Setup:
    """Return the setup that runs a command of the chapter, on this machine and on a port that the system picks."""
    options = [word.replace("shop.worker", "tests.apps.deployed") for word in command[2:]]
    for option in ("--host", "--port", "-b", "--interface"):
        if option in options:
            place = options.index(option)
            del options[place : place + 2]
    return with_options(SERVED[command[0]], *options)


def is_served_and_stopped(setup: Setup, folder: Path) -> None:
    """Serve the app, ask for its health, end it by SIGTERM, and check that everything was stopped in order."""
    with Server(setup, "tests.apps.deployed:app", folder / "none.db") as server:
        server.wait_until_it_serves()
        assert server.request("GET", "/health").status_code == 200
        server.signal(signal.SIGTERM)
        server.wait()
        assert server.announcements == ["started pool", "stopped pool"], str(server)


@pytest.mark.servers
@pytest.mark.parametrize("line", block("sh").splitlines(), ids=lambda line: line.split()[0])
def test_each_command_serves_and_stops_at_sigterm(line: str, tmp_path: Path) -> None:
    """Run it as it stands, but for the app, the address and the port."""
    command = shlex.split(line)
    assert command[1] == "shop.main:app"
    is_served_and_stopped(setup_of(command), tmp_path)


@pytest.mark.servers
def test_the_image_and_the_service_run_the_first_command(tmp_path: Path) -> None:
    """Compare the commands, of which the first is run by the test above."""
    first = block("sh").splitlines()[0]
    assert json.loads(re.findall(r"^CMD (.*)$", block("dockerfile"), re.MULTILINE)[0]) == shlex.split(first)
    (service,) = re.findall(r"^ExecStart=\S+/bin/(.*)$", block("ini"), re.MULTILINE)
    assert service == first.replace("0.0.0.0", "127.0.0.1")


def option(command: str, name: str) -> int:
    """Return the number that follows an option in a command."""
    words = shlex.split(command)
    return int(words[words.index(name) + 1])


def test_what_may_kill_waits_until_the_app_has_stopped() -> None:
    """Compare the limits of each supervisor with the sum of what a stop may take."""
    commands = {shlex.split(line)[0]: line for line in block("sh").splitlines()}
    streams = option(commands["uvicorn"], "--timeout-graceful-shutdown")
    pod: Any = yaml.safe_load(block("yaml"))["spec"]["template"]["spec"]
    before = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    longest = streams + SHUTDOWN_TIMEOUT
    assert pod["terminationGracePeriodSeconds"] > before + longest
    assert int(re.findall(r"^TimeoutStopSec=(\d+)", block("ini"), re.MULTILINE)[0]) > longest
    assert option(commands["gunicorn"], "--graceful-timeout") > longest
    assert option(commands["granian"], "--workers-kill-timeout") > longest


def test_the_probes_ask_for_a_route_and_outlast_the_startup() -> None:
    """Compare the probes with the app: the startup fails by its own timeout, before the container is killed."""
    pod: Any = yaml.safe_load(block("yaml"))["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = [container[name] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["httpGet"]["path"] for probe in probes} <= {getattr(route, "path", "") for route in api.routes}
    assert probes[0]["periodSeconds"] * probes[0]["failureThreshold"] > STARTUP_TIMEOUT


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze checks the file")
def test_systemd_takes_the_service(tmp_path: Path) -> None:
    """Have it verified; a word that systemd does not know is printed."""
    unit = tmp_path / "shop.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", block("ini"), flags=re.MULTILINE))
    unit.write_text(re.sub(r"^User=.*\n", "", unit.read_text(), flags=re.MULTILINE))
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=True)
    assert ran.stderr == ""


# --- open streams ---

WAITS, STOPS, KILLED = "waits without limit", "everything is stopped in order", "is killed"

BEFORE_312 = pytest.mark.skipif(sys.version_info < (3, 12), reason="there it ends streams after the time")

STREAMS = [
    ("uvicorn", "-", WAITS, UVICORN, ()),
    ("uvicorn", "`--timeout-graceful-shutdown 15`", STOPS, UVICORN, ("--timeout-graceful-shutdown", "1")),
    (
        "uvicorn `--workers`",
        "`--timeout-graceful-shutdown 15`",
        STOPS,
        UVICORN_WORKERS,
        ("--timeout-graceful-shutdown", "1"),
    ),
    ("hypercorn on asyncio, Python 3.12 and newer", "`--graceful-timeout 15`", WAITS, HYPERCORN, ()),
    ("hypercorn `-k uvloop`", "`--graceful-timeout 15`", STOPS, HYPERCORN, ("-k", "uvloop", "--graceful-timeout", "1")),
    ("hypercorn `-k trio`", "`--graceful-timeout 15`", STOPS, HYPERCORN_TRIO, ("--graceful-timeout", "1")),
    ("granian", "-", WAITS, GRANIAN, ()),
    ("granian", "`--workers-kill-timeout 45`", KILLED, GRANIAN, ("--workers-kill-timeout", "1")),
    (
        "gunicorn `-k uvicorn_worker.UvicornWorker`",
        "`--graceful-timeout 45`",
        KILLED,
        GUNICORN_UVICORN,
        ("--graceful-timeout", "1"),
    ),
    (
        "gunicorn `-k shop.worker.Worker`",
        "`--graceful-timeout 45`",
        STOPS,
        GUNICORN_UVICORN,
        ("-k", "tests.apps.deployed.Impatient"),
    ),
    ("gunicorn `-k asgi`", "`--graceful-timeout 45`", KILLED, GUNICORN_ASGI, ("--graceful-timeout", "1")),
]
"""Each row of the table, with what shows it: the same options with a second in place of the time."""


def test_the_table_of_open_streams_is_the_one_that_is_shown() -> None:
    """Compare the rows."""
    table = CHAPTER.partition("<!-- table: streams -->\n")[2].partition("<!-- end -->")[0]
    rows = [tuple(line[2:-2].split(" | ")) for line in table.splitlines()[2:]]
    assert rows == [row[:3] for row in STREAMS]


@pytest.mark.servers
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=BEFORE_312 if "3.12" in row[0] else ()) for row in STREAMS],
    ids=lambda row: f"{row[0]} {' '.join(row[4])}".replace("`", ""),
)
def test_an_open_stream_at_sigterm(row: tuple[str, str, str, Setup, tuple[str, ...]], tmp_path: Path) -> None:
    """The server waits for it, ends it and stops everything, or is killed and stops nothing."""
    _, _, outcome, setup, options = row
    with Server(with_options(setup, *options), "tests.apps.faults:crashing", tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        with server.visit("/linger"):
            server.wait_for_announcement("lingering")
            server.signal(signal.SIGTERM)
            if outcome == WAITS:
                server.patience = 3
                with pytest.raises(AssertionError, match="still runs after 3 s"):
                    server.wait()
                server.patience = 45
            else:
                server.wait()
        server.wait()
        expected = stopped(TEA_ROOM) if outcome != KILLED else []
        for told in server.histories:
            assert [what for what in told if what.startswith("stopped")] == expected, str(server)


# --- a startup that hangs ---


@pytest.mark.servers
@pytest.mark.parametrize(
    "setup", [UVICORN, HYPERCORN, GRANIAN, GUNICORN_UVICORN, GUNICORN_ASGI], ids=lambda setup: setup.name
)
def test_a_startup_cannot_be_interrupted(setup: Setup, tmp_path: Path) -> None:
    """SIGTERM while it hangs is followed by nothing until `startup_timeout` ends the startup."""
    with Server(setup, "tests.apps.faults:hanging", tmp_path / "none.db") as server:
        server.wait_for_announcement("started till")
        server.signal(signal.SIGTERM)
        server.wait()
        assert server.histories == [[*started(["till"]), *stopped(["till"]), "told startup.failed"]], str(server)
        assert re.search(r"startup timed out after 0\.5 s in hook 'boil_water'", str(server))
