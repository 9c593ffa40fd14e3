import argparse
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

import asgi_lifespan_mw
from asgi_lifespan_mw import Report, UnitReport
from asgi_lifespan_mw._cli.main import _summary, main
from asgi_lifespan_mw._cli.render import as_ascii, as_json, as_svg, as_trace, own_start, seconds, tree
from asgi_lifespan_mw._cli.running import _error_text
from asgi_lifespan_mw._cli.screen import Screen
from tests.cli.terminal import PATIENCE, Terminal

BACKENDS = ["asyncio", "trio", "uvloop"]
APPS = "tests.apps.checked:"


@pytest.fixture(autouse=True)
def _process_is_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command line has a process to itself; here it leaves the path and the log as they were."""
    logger = logging.getLogger("asgi_lifespan_mw")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(logger, "filters", [])
    monkeypatch.delenv("COLUMNS", raising=False)
    yield
    logger.setLevel(logging.NOTSET)


class Ran:
    """A command that was carried out in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self.status = main(arguments, lambda: sys.stdout)
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> dict[str, Any]:
        """What was printed, read."""
        read: dict[str, Any] = json.loads(self.out)
        return read


def shape(text: str) -> list[str]:
    """The tree and what is around it, without times and bars."""
    text = re.sub(r"\d+(\.\d+)? [mµ]?s\b", "T", text)
    text = re.sub(r"checked\.py:\d+", "checked.py:N", text)
    text = re.sub(r"[█▒─ ]*[█▒][█▒ ]*", " # ", text)
    return [re.sub(r" +", " ", line).strip() for line in text.splitlines() if line]


# --- check ---


@pytest.mark.parametrize("backend", BACKENDS)
def test_check_shows_what_starts_and_what_not(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    """A line for each, with what it took, bars on one axis, the keys of its state, and a reason."""
    ran = Ran(capsys, "check", f"{APPS}wrapped", "--backend", backend)
    assert ran.status == 0
    head, axis, *rows, summary = shape(ran.out)
    assert re.fullmatch(rf"tests\.apps\.checked:wrapped on {backend}, Python [\d.]+", head)
    assert axis.endswith("T")
    assert rows == [
        "✓ hook 'pool' T T # +pool",
        "✓ app Starlette T T #",
        "○ ├─ mount '/static' is sent no lifespan: serves files and fails at any other scope",
        "✓ └─ mount '/admin' T T # +clerk",
    ]
    assert re.fullmatch(r"started in T, stopped in T, slowest to start: .*, T", summary)


def test_the_report_alone_is_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """What the app prints, and each event, is on standard error."""
    ran = Ran(capsys, "check", f"{APPS}wrapped")
    assert "the pool opens" not in ran.out
    assert shape(ran.err) == [
        "the pool opens",
        "hook 'pool' (tests/apps/checked.py:N) started in T",
        "app Starlette started in T",
        "mount '/admin' started in T",
        "mount '/admin' stopped in T",
        "app Starlette stopped in T",
        "hook 'pool' (tests/apps/checked.py:N) stopped in T",
    ]


@pytest.mark.parametrize(("name", "mounts"), [("bare", 1), ("bare_failing", 1)])
def test_an_app_that_is_not_wrapped_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], name: str, mounts: int
) -> None:
    """With the mounts that nobody starts, and what wrapping would change; also if it fails."""
    ran = Ran(capsys, "check", f"{APPS}{name}")
    assert ran.status == (name == "bare_failing")
    assert "○ └─ mount '/admin' never started: its parent keeps the lifespan to itself" in shape(ran.out)
    assert "warning: 1 mount is never started; LifespanMiddleware(app) would start and stop them" in ran.out


@pytest.mark.parametrize("name", ["inside", "own"])
def test_a_middleware_or_a_lifespan_inside_the_app_is_seen(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Then the app is wrapped, and no mount is missed."""
    ran = Ran(capsys, "check", f"{APPS}{name}", "--strict")
    assert ran.status == 0
    assert "hook 'pool'" in ran.out
    assert "mount '/admin'" in ran.out
    assert "never started" not in ran.out


@pytest.mark.parametrize("command", ["check", "tree"])
def test_what_is_in_an_excluded_mount_is_not_missed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    """It was left out on purpose, and wrapping would change nothing."""
    (tmp_path / "excludes.py").write_text(
        "from starlette.applications import Starlette\n"
        "from starlette.routing import Mount\n"
        "from asgi_lifespan_mw import LifespanMiddleware\n"
        "legacy = Starlette(routes=[Mount('/deep', Starlette())])\n"
        "app = Starlette(routes=[Mount('/legacy', legacy), Mount('/admin', Starlette())])\n"
        "app.add_middleware(LifespanMiddleware, exclude=[legacy])\n"
    )
    ran = Ran(capsys, command, "excludes:app", "--app-dir", str(tmp_path), "--strict")
    assert ran.status == 0
    assert "○ ├─ mount '/legacy' is excluded" in shape(ran.out)
    assert "never started" not in ran.out


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        (
            "failing",
            "startup failed in mount '/admin': ConnectionRefusedError: [Errno 111] Connection refused",
            "raise",
        ),
        ("bare_failing", "startup failed in app Starlette: ConnectionRefusedError: [Errno 111]", "raise"),
        ("failing_at_stop", "shutdown failed in hook 'breaks_at_stop' (tests/apps/checked.py:", "raise"),
        ("only_says_so", "startup failed in app only_says_so(): no disk", ""),
    ],
)
def test_a_failure_is_shown_with_its_unit_and_the_users_traceback(
    capsys: pytest.CaptureFixture[str], name: str, error: str, line: str
) -> None:
    """The traceback begins in the user's code, and the exit status is 1."""
    ran = Ran(capsys, "check", f"{APPS}{name}")
    assert ran.status == 1
    assert error in ran.out
    assert bool(line) == ("Traceback (most recent call last):\n" in ran.out)
    for first in re.findall(r"Traceback \(most recent call last\):\n  File \"(.*)\"", ran.out):
        assert first.endswith("checked.py")


def test_what_is_not_the_failure_of_a_unit_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Two units that set one key."""
    ran = Ran(capsys, "check", f"{APPS}colliding")
    assert ran.status == 1
    assert "startup failed: state key 'pool' was set by hook 'pool'" in ran.out
    assert "Traceback" not in ran.out
    ran = Ran(capsys, "check", f"{APPS}colliding_and_failing")
    assert "startup failed: state key 'pool' was set by hook 'pool'" in ran.out
    assert "shutdown failed in hook 'breaks_at_stop' (tests/apps/checked.py:" in ran.out
    assert ran.out.count("Traceback") == 1


@pytest.mark.parametrize(
    ("name", "option", "told"),
    [
        ("hanging", "--startup-timeout", "startup timed out after 0.05 s in hook 'hangs' (tests/apps/checked.py:"),
        ("hanging_at_stop", "--shutdown-timeout", "shutdown timed out after 0.05 s in hook 'hangs_at_stop' (tests/"),
    ],
)
def test_time_limits_name_who_ran_out_of_time(
    capsys: pytest.CaptureFixture[str], name: str, option: str, told: str
) -> None:
    """They stand in place of the app's own."""
    ran = Ran(capsys, "check", f"{APPS}{name}", option, "0.05")
    assert ran.status == 1
    assert told in ran.out
    assert "Traceback" not in ran.out


def test_an_app_without_lifespan_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """That is no failure: a server would serve it."""
    ran = Ran(capsys, "check", f"{APPS}only_http")
    assert ran.status == 0
    assert shape(ran.out)[-2:] == ["○ app only_http() has no lifespan", "nothing was started"]


def test_strict_is_status_3_for_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    """A departure from the protocol, and mounts that nobody starts."""
    assert Ran(capsys, "check", f"{APPS}says_too_much").status == 0
    ran = Ran(capsys, "check", f"{APPS}says_too_much", "--strict")
    assert ran.status == 3
    assert "warning: app says_too_much() sent 'lifespan.startup.complete' while started; expected" in ran.out
    assert Ran(capsys, "check", f"{APPS}bare", "--strict").status == 3
    assert Ran(capsys, "tree", f"{APPS}bare", "--strict").status == 3
    assert Ran(capsys, "check", f"{APPS}bare_failing", "--strict").status == 1


def test_a_slow_unit_is_named_with_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning of the log comes as it is given: what hangs may never end."""
    from asgi_lifespan_mw._units import supervisor as _units

    monkeypatch.setattr(_units, "SLOW_AFTER", 0.02)
    ran = Ran(capsys, "check", f"{APPS}hanging", "--startup-timeout", "0.1")
    assert re.search(r"^startup of hook 'hangs' .*, at .*checked\.py:\d+ in hangs$", ran.err, re.MULTILINE)


@pytest.mark.slow
def test_a_live_line_is_drawn_while_the_event_loop_is_blocked() -> None:
    """A plain function that computes is what most often takes long."""
    with Terminal("check", f"{APPS}blocking") as terminal:
        terminal.until(lambda: "starting hook 'blocks'  (0 done)" in terminal.text)
        assert terminal.ended() == 0


# --- tree ---


@pytest.mark.parametrize("name", ["wrapped", "inside", "own"])
def test_tree_shows_the_same_without_starting_anything(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """No hook runs, however the middleware is used; an app's own lifespan runs the hooks inside the app's startup."""
    ran = Ran(capsys, "tree", f"{APPS}{name}")
    assert ran.status == 0
    assert shape(ran.out) == [
        f"tests.apps.checked:{name}",
        *(["· app Starlette", "· ├─ hook 'pool'"] if name == "own" else ["· hook 'pool'", "· app Starlette"]),
        "○ ├─ mount '/static' is sent no lifespan: serves files and fails at any other scope",
        "· └─ mount '/admin'",
        "3 would be started, in this order; 1 would not",
    ]
    assert ran.err == ""


def test_tree_shows_an_app_that_is_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    """The app alone would be started."""
    ran = Ran(capsys, "tree", f"{APPS}bare")
    assert "1 would be started, in this order; 2 would not" in ran.out


# --- for machines ---


def test_json_has_the_fields_that_the_readme_names(capsys: pytest.CaptureFixture[str]) -> None:
    """No more and no less; a field that is taken away makes a new version."""
    ran = Ran(capsys, "check", f"{APPS}wrapped", "--json")
    assert (ran.json["version"], ran.json["status"], ran.json["error"], ran.json["findings"]) == (1, 0, "", [])
    readme = (Path(__file__).parent.parent.parent / "docs" / "reference.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- table: json -->\n(.*?)<!-- end -->", readme, re.DOTALL)
    fields = re.findall(r"^\| `([a-z_.\[\]]+)`", table, re.MULTILINE)
    assert fields == [*ran.json, *(f"units[].{field}" for field in ran.json["units"][0])]
    assert [unit["outcome"] for unit in ran.json["units"]] == ["stopped", "stopped", "left out", "stopped"]


def test_json_of_a_failure_has_the_error_and_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads it need not look at anything else."""
    ran = Ran(capsys, "check", f"{APPS}failing", "--json")
    assert ran.json["status"] == ran.status == 1
    assert "Connection refused" in ran.json["error"]


def test_trace_is_read_by_perfetto(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Complete events with a beginning and a length in microseconds, each unit on a track that has its name."""
    Ran(capsys, "check", f"{APPS}wrapped", "--trace", str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert list(tracks.values()) == ["hook 'pool'", "app Starlette", "mount '/static'", "mount '/admin'"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [event["name"] for event in spans] == [
        f"{deed} {unit}" for unit in ("hook 'pool'", "app Starlette", "mount '/admin'") for deed in ("start", "stop")
    ]
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in spans)


@pytest.mark.parametrize("name", ["wrapped", "failing", "only_http"])
def test_svg_is_a_picture_with_all_units(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    """Well-formed, with a line for each unit, and with colours."""
    ran = Ran(capsys, "check", f"{APPS}{name}", "--svg", str(tmp_path / "timeline.svg"))
    picture = ET.fromstring((tmp_path / "timeline.svg").read_text(encoding="utf-8"))
    texts = [text.text or "" for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == f"{APPS}{name}"
    shown = "".join(texts).replace("\xa0", " ")
    if name != "only_http":
        assert all(unit in shown for unit in ("hook 'pool'", "app Starlette", "mount '/static'", "mount '/admin'"))
        assert shown.count("█") >= ran.out.count("✓")
        assert len({text.get("class") for text in picture.iter("{http://www.w3.org/2000/svg}text")}) >= 4


def test_svg_without_rich_is_bad_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before anything is started, with what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = Ran(capsys, "check", f"{APPS}wrapped", "--svg", str(tmp_path / "timeline.svg"))
    assert ran.status == 2
    assert ran.err == "asgi-lifespan-mw: --svg needs rich: pip install 'asgi-lifespan-mw[cli]'\n"


@pytest.mark.parametrize("option", ["--svg", "--trace"])
def test_a_file_that_cannot_be_written_has_a_status_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    """The file is named, and the report is printed: the app has started and stopped."""
    ran = Ran(capsys, "check", f"{APPS}wrapped", option, str(tmp_path / "no" / "timeline.svg"))
    assert ran.status == 4
    assert re.search("No such file or directory: .*timeline.svg", ran.err)
    assert "✓ app Starlette" in ran.out


# --- bad usage ---


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["check", "tests.apps.checked"], "expected MODULE:APP, such as tests.apps.checked:app, got"),
        (["check", ":app"], "expected MODULE:APP, such as shop.main:app, got ':app'"),
        (["check", "tets.apps.checked:wrapped"], f"importing 'tets.apps.checked:wrapped' from {Path.cwd()} failed"),
        (["check", "tets.apps.checked:wrapped"], "; did you mean 'tests'?\n\nModuleNotFoundError: No module named"),
        (["check", "tests.apps.cheked:wrapped"], "; did you mean 'checked'?\n\nModuleNotFoundError: No module named"),
        (["check", "tests.apps.checked:wraped"], "; did you mean 'wrapped'"),
        (["check", "tests.apps.checked:zzz"], "failed\n\nAttributeError: module 'tests.apps.checked' has no"),
        (["check", "tests.apps.checked:text"], "tests.apps.checked:text got 'no app', which can't be called"),
        (["check", "tests.apps.checked:Starlette"], "got the class Starlette, expected an ASGI 3 application"),
        (["check", "tests.apps.checked:make_wrapped"], "if it is a factory, pass --factory"),
        (["check", "tests.apps.checked:broken_factory", "--factory"], "RuntimeError: no configuration"),
    ],
)
def test_what_is_no_app_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """With status 2, and without a traceback of ours."""
    ran = Ran(capsys, *arguments)
    assert ran.status == 2
    assert told in ran.err
    assert ran.out == ""
    assert "_cli" not in ran.err


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("def (", "SyntaxError"),
        ("raise ModuleNotFoundError('by hand')", "ModuleNotFoundError: by hand"),
        ("from tests.apps import chekced", "ImportError: cannot import name 'chekced' from 'tests.apps'"),
    ],
)
def test_an_import_that_fails_shows_the_users_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, source: str, told: str
) -> None:
    """It begins in the module, and not in the machinery of imports."""
    module = f"broken_{abs(hash(source))}"
    (tmp_path / f"{module}.py").write_text(source)
    ran = Ran(capsys, "check", f"{module}:app", "--app-dir", str(tmp_path))
    assert ran.status == 2
    assert f"importing '{module}:app' from {tmp_path} failed\n\n" in ran.err
    assert told in ran.err
    assert "importlib" not in ran.err


def test_a_factory_makes_the_app(capsys: pytest.CaptureFixture[str]) -> None:
    """As with uvicorn."""
    assert Ran(capsys, "tree", f"{APPS}make_wrapped", "--factory").status == 0


def test_an_app_whose_signature_cannot_be_seen_is_taken(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It may be written in another language."""
    (tmp_path / "in_c.py").write_text("app = {}.update")
    assert Ran(capsys, "tree", "in_c:app", "--app-dir", str(tmp_path)).status == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["check"],
        ["check", "a:b", "--backend", "curio"],
        ["check", "a:b", "--startup-timeout", "-1"],
        ["check", "a:b", "--startup-timeout", "soon"],
    ],
)
def test_bad_usage_is_status_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """With the usage, as argparse tells it."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: asgi-lifespan-mw" in capsys.readouterr().err


def test_a_backend_that_is_not_installed_is_bad_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = Ran(capsys, "check", f"{APPS}wrapped", "--backend", "trio")
    assert ran.status == 2
    assert "--backend trio needs trio: pip install trio" in ran.err


@pytest.mark.parametrize("is_in_hook", [False, True])
def test_a_log_that_the_app_configures_changes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, is_in_hook: bool
) -> None:
    """``dictConfig`` disables what it does not know, as a migration in a hook does; warnings are gathered even so."""
    module = f"configures_{is_in_hook}"
    (tmp_path / f"{module}.py").write_text(
        "import logging.config\n"
        "from asgi_lifespan_mw import LifespanMiddleware\n"
        "from tests.apps.checked import says_too_much\n"
        "def configure(): logging.config.dictConfig({'version': 1})\n"
        f"if not {is_in_hook}: configure()\n"
        f"app = LifespanMiddleware(says_too_much, on_startup=[configure] if {is_in_hook} else [])\n"
    )
    try:
        ran = Ran(capsys, "check", f"{module}:app", "--app-dir", str(tmp_path), "--strict")
    finally:
        for name in [*logging.root.manager.loggerDict]:
            logging.getLogger(name).disabled = False
    assert ran.status == 3
    assert "says_too_much() sent 'lifespan.startup.complete' while started" in ran.out


# --- in the background ---


BACKGROUND = """
from contextlib import asynccontextmanager
import anyio
from asgi_lifespan_mw import LifespanMiddleware
from starlette.applications import Starlette
from starlette.routing import Mount

@asynccontextmanager
async def loads(app):
    await anyio.sleep(0.2)
    if {fails}: raise OSError("no model")
    yield {{"model": 1}}

@asynccontextmanager
async def mounted(app):
    yield {{"clerk": 1}}

sub = Starlette(lifespan=mounted)
if {is_hook}:
    app = LifespanMiddleware(Starlette(routes=[Mount("/admin", sub)]))
    app.context(background=True)(loads)
else:
    app = LifespanMiddleware(Starlette(lifespan=loads, routes=[Mount("/admin", sub)]), background=True)
"""


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("is_hook", [False, True])
def test_check_waits_for_what_starts_in_the_background(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, *, is_hook: bool, fails: bool
) -> None:
    """A hook, or the app with its mounts: all that it starts is shown with its state, and a failure is a failure."""
    module = f"background_{is_hook}_{fails}"
    (tmp_path / f"{module}.py").write_text(BACKGROUND.format(is_hook=is_hook, fails=fails))
    ran = Ran(capsys, "check", f"{module}:app", "--app-dir", str(tmp_path), "--json")
    assert ran.status == fails
    outcomes = {unit["kind"]: (unit["outcome"], unit["state"]) for unit in ran.json["units"]}
    outcome, state = outcomes["hook" if is_hook else "app"]
    if fails:
        assert outcome in ("failed", "crashed")  # on a busy machine, before the rest has started
        assert "OSError: no model" in ran.json["error"]
    else:
        assert (outcome, state) == ("stopped", ["model"])
        assert outcomes["mount"] == ("stopped", ["clerk"])


# --- in a terminal ---


@pytest.mark.slow
def test_the_live_line_shows_the_unit_at_work(tmp_path: Path) -> None:
    """One line below what the app prints, however wide the terminal is; at the end it is gone and the tree is there."""
    with Terminal("check", f"{APPS}waiting", WAIT_FOR=str(tmp_path / "go")) as terminal:
        wide = r"the pool opens\nwaiting for the file\n *[\d.]+ m?s  starting hook 'waits'  \(1 done\)"
        terminal.until(lambda: re.fullmatch(wide, terminal.text) is not None)
        terminal.resize(28, 40)
        narrow = r"(?s).*\n *[\d.]+ m?s  starting hook\n'waits'  \(1 done\)"

        def until_it_is_drawn_anew() -> int:
            # From the second time on, it is drawn over one that has two lines.
            before = terminal.raw.count(b"\x1b[1A")
            terminal.until(
                lambda: terminal.raw.count(b"\x1b[1A") >= before + 3 and re.fullmatch(narrow, terminal.text) is not None
            )
            return len(terminal.lines) - 4

        left = until_it_is_drawn_anew()  # of lines that were on their way when the terminal shrank
        assert until_it_is_drawn_anew() == left
        terminal.resize(90, 40)
        (tmp_path / "go").touch()
        assert terminal.ended() == 0
        assert terminal.text.count("starting") == left
        assert "✓ hook 'waits'" in terminal.text
        assert {"green", "cyan"} <= terminal.colors()
        assert not terminal.is_cursor_hidden
        assert max(map(len, terminal.lines)) <= 90


def test_the_live_line_waits_for_the_end_of_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app prints without an end of line, a prompt say, is not written over."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream, os.fdopen(master, "rb", buffering=0) as shown:
        screen = Screen(stream)
        assert screen.live is not None
        with screen.live:
            screen.write("half a line")
            assert not screen.live.is_started
            screen.write(", and its end\n")
            assert screen.live.is_started
        seen = b""
        while b"its end" not in seen:
            seen += shown.read(1000)
        assert b"half a line, and its end\r\n" in seen


@pytest.mark.slow
def test_what_the_app_writes_at_the_end_of_the_process_is_shown(tmp_path: Path) -> None:
    """A handler of the log keeps the stream that it was given, and there is no live line any more."""
    (tmp_path / "says_goodbye.py").write_text(
        "import atexit, sys\n"
        "atexit.register(print, 'goodbye', file=sys.stderr)\n"
        "from tests.apps.checked import wrapped as app\n"
    )
    with Terminal("check", "says_goodbye:app", "--app-dir", str(tmp_path)) as terminal:
        assert terminal.ended() == 0
        assert terminal.lines[-1] == "goodbye"
        assert not terminal.is_cursor_hidden


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_unwinds_and_says_where_it_was(backend: str) -> None:
    """What had started is stopped, and the unit that was starting is named, with its line."""
    with Terminal("check", f"{APPS}hanging", "--backend", backend, columns=200) as terminal:
        terminal.until(lambda: re.search(r"it hangs\n.*starting hook 'hangs'", terminal.text) is not None)
        terminal.press("\x03")
        assert terminal.ended() == 130
        assert "✓ hook 'pool'" in terminal.text
        assert re.search(r"^✗ hook 'hangs'", terminal.text, re.MULTILINE)
        assert re.search(r"^· app Starlette", terminal.text, re.MULTILINE)
        assert re.search(
            r"^interrupted while starting hook 'hangs' \(.*\) at .*checked\.py:\d+ in hangs$",
            terminal.text,
            re.MULTILINE,
        )
        assert "Traceback" not in terminal.text
        assert not terminal.is_cursor_hidden


@pytest.mark.parametrize("app", ["wrapped", "inside", "own", "bare", "ordered"])
def test_tree_and_check_agree_on_the_order(app: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What starts inside an app's own lifespan, `check` also shows below that app."""
    shown = [Ran(capsys, command, f"{APPS}{app}", "--json").json["units"] for command in ("tree", "check")]
    would_start, did = ([(unit["unit"], unit["path"]) for unit in units] for units in shown)
    assert len(would_start) >= 3
    assert did[-len(would_start) :] == would_start


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("app", "phase"), [("sleeping", "startup"), ("sleeping_at_stop", "shutdown")])
def test_ctrl_c_interrupts_a_hook_that_blocks_the_event_loop(app: str, phase: str, backend: str) -> None:
    """At once, with the line at which it was; the others are stopped."""
    with Terminal("check", f"{APPS}{app}", "--backend", backend, columns=160) as terminal:
        terminal.until(lambda: "it sleeps" in terminal.text)
        assert terminal.interrupt() == 130
        assert re.search(rf"^{phase} failed in hook 'sleeps.*' \(.*\): KeyboardInterrupt$", terminal.text, re.MULTILINE)
        frames = re.findall(r"^  File .*", terminal.text, re.MULTILINE)
        assert "checked.py" in frames[0]
        assert "    time.sleep(600)" in terminal.text
        assert re.search(r"^✓ hook 'pool'", terminal.text, re.MULTILINE)


def test_an_ignored_ctrl_c_stays_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    """As shells do for commands in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert Ran(capsys, "check", f"{APPS}wrapped").status == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_ctrl_c_during_the_stop_ends_it_within_the_time_for_that() -> None:
    """The unit that does not stop is cancelled, and told of."""
    with Terminal("check", f"{APPS}hanging_at_stop", "--shutdown-timeout", "0.5", columns=160) as terminal:
        terminal.until(lambda: "stopping hook 'hangs_at_stop'" in terminal.text)
        terminal.press("\x03")
        assert terminal.ended() in (1, 130)
        assert "hook 'hangs_at_stop'" in terminal.text


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """With that of Python."""
    with pytest.raises(SystemExit) as raised:
        main(["--version"])
    assert raised.value.code == 0
    expected = f"asgi-lifespan-mw {asgi_lifespan_mw.__version__}, Python {sys.version.split()[0]}\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("given", "right"),
    [("main.py", "main:app"), ("shop/main.py:app", "shop.main:app"), ("./shop/main.py:api", "shop.main:api")],
)
def test_a_path_is_answered_with_the_right_spelling(capsys: pytest.CaptureFixture[str], given: str, right: str) -> None:
    """As one types it after a look at the folder."""
    ran = Ran(capsys, "check", given)
    assert ran.status == 2
    assert f"expected MODULE:APP, such as {right}, got {given!r}" in ran.err


def test_json_answers_an_error_of_the_import_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A program that reads the answer finds the error in it."""
    ran = Ran(capsys, "check", "no_such_module:app", "--json")
    assert ran.status == 2
    assert ran.json["status"] == 2
    assert "No module named 'no_such_module'" in ran.json["error"]
    assert ran.json["units"] == []


def test_a_missing_directory_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not the module that is not found in it."""
    ran = Ran(capsys, "check", "main:app", "--app-dir", str(tmp_path / "nowhere"))
    assert ran.status == 2
    assert f"--app-dir got '{tmp_path / 'nowhere'}', which is not a directory" in ran.err


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_factory_may_be_a_coroutine_function(capsys: pytest.CaptureFixture[str], backend: str) -> None:
    """It runs in the event loop that was asked for."""
    ran = Ran(capsys, "check", f"{APPS}create_later", "--factory", "--backend", backend)
    assert ran.status == 0
    assert "✓ app Starlette" in ran.out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--trace", "x.json"), ("--startup-timeout", "5"), ("--shutdown-timeout", "5"), ("--backend", "trio")],
)
def test_an_option_without_effect_on_tree_is_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    """It is an option of `check` alone."""
    with pytest.raises(SystemExit) as ended:
        main(["tree", f"{APPS}wrapped", option, value])
    assert ended.value.code == 2
    assert f"unrecognized arguments: {option} {value}" in capsys.readouterr().err


def test_each_command_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """With its own options, on standard output."""
    shown: dict[str, str] = {}
    for command in ("", "check", "tree"):
        with pytest.raises(SystemExit) as ended:
            main([*filter(None, [command]), "--help"])
        assert ended.value.code == 0
        shown[command] = capsys.readouterr().out
    assert "130 for Ctrl-C" in shown[""]
    assert "--json" in shown["check"]
    assert "--json" in shown["tree"]
    assert "--backend" in shown["check"]
    assert "--backend" not in shown["tree"]
    assert "Nothing is started." in shown["tree"]


def test_a_picture_is_an_svg(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """By its name; nothing is written elsewhere. It has the summary and the error, and no font of the network."""
    ran = Ran(capsys, "check", f"{APPS}wrapped", "--svg", str(tmp_path / "x.png"))
    assert ran.status == 2
    assert "expected a file name that ends with .svg" in ran.err
    picture = tmp_path / "x.svg"
    assert Ran(capsys, "check", f"{APPS}bare_failing", "--svg", str(picture)).status == 1
    shown = picture.read_text(encoding="utf-8").replace("&#160;", " ")
    assert "did not start, cleaned up in" in shown
    assert "Connection refused" in shown
    assert "@font-face" not in shown
    assert "http" not in shown.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")


def test_forty_columns_have_no_chart() -> None:
    """The names and the times take the room."""
    rows = (UnitReport("hook 'open_the_pool' (x.py:1)", "hook", outcome="stopped", began=0, start_seconds=1),)
    report = Report(units=rows, start_seconds=1, stop_began=2, stop_seconds=1)
    narrow, wide = tree(report, 40), tree(report, 100)
    assert "█" not in narrow
    assert "open_the_pool" in narrow
    assert "█" in wide
    assert all(len(line) <= 40 for line in narrow.splitlines())


@pytest.mark.slow
def test_bad_usage_ends_the_live_line() -> None:
    """The message stands below nothing else."""
    with Terminal("check", "no_such_module:app") as terminal:
        assert terminal.ended() == 2
        assert "No module named 'no_such_module'" in terminal.text
        assert not terminal.is_cursor_hidden


@pytest.mark.slow
def test_ctrl_c_during_the_import_ends_it(tmp_path: Path) -> None:
    """Nothing was started, and it says so."""
    (tmp_path / "imports_slowly.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    with Terminal("check", "imports_slowly:app", "--app-dir", str(tmp_path)) as terminal:
        terminal.until(lambda: "importing" in terminal.text)
        assert terminal.interrupt() == 130, terminal.text
        assert "interrupted while importing 'imports_slowly:app'" in terminal.text
        assert "Traceback" not in terminal.text


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "term"), [("true", "xterm"), ("", "dumb")])
def test_there_is_no_live_line_where_it_would_not_do(ci: str, term: str) -> None:
    """Plain lines in CI and on a dumb terminal."""
    with Terminal("check", f"{APPS}wrapped", CI=ci, TERM=term) as terminal:
        assert terminal.ended() == 0
        assert b"\x1b[J" not in terminal.raw
        assert "app Starlette started in" in terminal.text
        assert (term == "dumb") == (b"\x1b" not in terminal.raw)


@pytest.mark.slow
def test_no_color_is_obeyed() -> None:
    """The live line stays, for it has none."""
    with Terminal("check", f"{APPS}wrapped", NO_COLOR="1") as terminal:
        assert terminal.ended() == 0
        assert "✓ hook 'pool'" in terminal.text
        assert terminal.colors() == set()
        assert b"\x1b[3" not in terminal.raw


def test_without_rich_there_are_plain_lines(tmp_path: Path) -> None:
    """A line for each event, and the tree without colours; rich comes with the extra."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with Terminal("check", f"{APPS}wrapped", PYTHONPATH=path) as terminal:
        assert terminal.ended() == 0
        assert b"\x1b" not in terminal.raw
        assert "app Starlette started in" in terminal.text
        assert "✓ └─ mount '/admin'" in terminal.text


@pytest.mark.parametrize("command", [["-m", "asgi_lifespan_mw"], []])
def test_a_pipe_gets_plain_lines(command: list[str]) -> None:
    """As a module and as a script: no escape sequence, the width that COLUMNS says, ASCII where there is no more."""
    program = [sys.executable, *command] if command else [str(Path(sys.executable).with_name("asgi-lifespan-mw"))]
    ran = subprocess.run(
        [*program, "check", f"{APPS}wrapped"],
        capture_output=True,
        check=True,
        timeout=PATIENCE,
        env={**os.environ, "COLUMNS": "70", "PYTHONIOENCODING": "ascii"},
    )
    assert b"\x1b" not in ran.stdout + ran.stderr
    lines = ran.stdout.decode("ascii").splitlines()
    assert max(map(len, lines[1:7])) <= 70
    assert any(line.startswith("+ `- mount '/admin'") for line in lines)


def test_a_reader_that_has_read_enough_is_no_failure() -> None:
    """What ``| head`` does."""
    read, write = os.pipe()
    os.close(read)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "asgi_lifespan_mw", "tree", f"{APPS}bare"],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            timeout=PATIENCE,
        )
    finally:
        os.close(write)
    assert ran.returncode == 0
    assert b"Traceback" not in ran.stderr


@pytest.mark.parametrize("command", ["check", "tree"])
def test_a_middleware_with_a_wrong_argument_is_bad_usage(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """The framework makes it later, and would tell no better."""
    ran = Ran(capsys, command, f"{APPS}misspelt")
    assert ran.status == 2
    assert "LifespanMiddleware among the app's middleware: " in ran.err
    assert "unexpected keyword argument 'on_startp'" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("failures", "raised", "told"),
    [
        ("b failed", KeyboardInterrupt(), "interrupted\n\nb failed\n\na failed"),
        ("b failed", OSError("b"), "b failed\n\na failed"),
        ("b failed\n\na failed", OSError("b"), "b failed\n\na failed"),
    ],
)
def test_the_failures_of_a_run_are_shown_before_those_of_runs_inside(
    failures: str, raised: BaseException, told: str
) -> None:
    """They stand in the order of the tree there; and what was given up is not called stopped."""
    units = (
        UnitReport("a", "hook", outcome="failed", reason="a failed"),
        UnitReport("b", "mount", outcome="failed", reason="b failed"),
    )
    assert _error_text(Report(units=units), failures, raised) == told


def test_an_error_that_is_not_a_failure_of_the_run_is_shown() -> None:
    """Such as one of the event loop."""
    assert _error_text(Report(), "", OSError("no loop")) == "OSError: no loop"


def test_a_report_without_a_start_has_no_slowest() -> None:
    """What is excluded, or can't be looked at, took no time to start."""
    options = argparse.Namespace(command="check")
    units = (UnitReport("app", "app", outcome="left out"),)
    assert _summary(Report(units=units, start_seconds=0.1, stop_seconds=0.2), options) == (
        "started in 100 ms, stopped in 200 ms"
    )
    assert _summary(Report(stop_seconds=0.2), options) == "did not start, cleaned up in 200 ms"


def test_an_import_error_whose_name_is_not_a_string_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Any exception may have a `name`."""
    (tmp_path / "oddly.py").write_text("class Odd(Exception):\n    name = 5\n\nraise Odd('as it is')\n")
    ran = Ran(capsys, "check", "oddly:app", "--app-dir", str(tmp_path))
    assert ran.status == 2
    assert "Odd: as it is" in ran.err


# --- the process ---


HEAD = """
import atexit, os, subprocess, sys, threading
from asgi_lifespan_mw import LifespanMiddleware
from tests.apps.checked import create
app = LifespanMiddleware(create())
"""

PRINTS = {
    "child process": "@app.on_startup\ndef migrate(): subprocess.run([sys.executable, '-c', 'print(\"printed\")'])\n",
    "sys.__stdout__": "@app.on_startup\ndef hello(): print('printed', file=sys.__stdout__)\n",
    "descriptor": "@app.on_startup\ndef hello(): os.write(1, b'printed')\n",
    "atexit": "atexit.register(print, 'printed')\n",
    "thread": "done = threading.Event()\natexit.register(done.set)\n"
    "def wait_and_print():\n    done.wait(9)\n    print('printed')\n"
    "threading._register_atexit(done.set)\nthreading.Thread(target=wait_and_print).start()\n",
}


def shell(tmp_path: Path, module: str, source: str, arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a shell, for an app of this source."""
    (tmp_path / f"{module}.py").write_text(HEAD + source)
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m asgi_lifespan_mw {arguments}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )


@pytest.mark.slow
@pytest.mark.parametrize("source", PRINTS.values(), ids=PRINTS)
def test_whatever_prints_the_report_stays_alone(source: str, tmp_path: Path) -> None:
    """Descriptor 1 leads to standard error, to the end of the process."""
    ran = shell(tmp_path, "prints", source, "check prints:app --json")
    assert json.loads(ran.stdout)["status"] == 0
    assert "printed" in ran.stderr
    assert ran.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "status", "told"),
    [
        (">&-", 4, "the report cannot be written: standard output is closed; nothing was started"),
        (">/dev/full", 4, "the report cannot be written: [Errno 28]"),
        ("--json >/dev/full", 4, "the report cannot be written: [Errno 28]"),
        ("--trace /dev/full", 4, "[Errno 28]"),
        ("2>&-", 0, ""),
        ("2>/dev/full", 0, ""),
        (">&- 2>&-", 4, ""),
        (">/dev/full 2>/dev/full", 4, ""),
        ("<&- >&- 2>&-", 4, ""),
    ],
)
def test_an_output_that_is_closed_or_full_is_not_a_failed_startup(
    redirection: str, status: int, told: str, tmp_path: Path
) -> None:
    """One line and a status of its own; without standard error, the status alone."""
    source = "@app.on_startup\ndef hello(): print('hello'); print('world', file=sys.stderr)\n"
    ran = shell(tmp_path, "says_hello", source, f"check says_hello:app {redirection}")
    assert ran.returncode == status
    assert "Traceback" not in ran.stderr
    assert told in ran.stderr
    assert ("✓ app Starlette" in ran.stdout) == (redirection in ("2>&-", "2>/dev/full", "--trace /dev/full"))


@pytest.mark.slow
def test_installed_metadata_is_not_needed() -> None:
    """The package may be a checkout on the path, or vendored."""
    program = (
        "import importlib.metadata\nimportlib.metadata.distribution = None\n"
        "from asgi_lifespan_mw._cli.main import main\nmain(['--version'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert asgi_lifespan_mw.__version__ in ran.stdout


STRANGE = r"""
import enum, json
class Key(str, enum.Enum):
    DB = "db"
class Hostile:
    def __repr__(self): raise SystemExit("repr")
    __str__ = __deepcopy__ = __reduce_ex__ = __repr__
keys = ["two\nlines", "\x1b[31m", "\x00", "\ud800", "a b", "\u202e", "<&>", Key.DB]
async def strange(): yield dict.fromkeys(keys, 1)
app.context(strange, name="a\n\x1b\ud800 (b) 'c' \"d\" \\")
inner = app.app
class Sets:
    async def __call__(self, scope, receive, send):
        await receive()
        scope["state"].update({5: 1, Hostile(): 2, None: 3})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise OSError("broken \x00 \ud800")
Sets.__qualname__ = "\x01Sets\n"
app.app = Sets()
"""


@pytest.mark.slow
def test_keys_and_names_of_any_kind_are_valid_everywhere(tmp_path: Path) -> None:
    """In JSON, in a trace, in a picture and on the terminal."""
    trace, svg = tmp_path / "trace.json", tmp_path / "picture.svg"
    ran = shell(tmp_path, "strange", STRANGE, f"check strange:app --json --trace {trace} --svg {svg}")
    assert ran.returncode == 1, ran.stderr
    hook, app = json.loads(ran.stdout)["units"]
    assert hook["state"] == ["two\nlines", "\x1b[31m", "\x00", "\ud800", "a b", "\u202e", "<&>", "db"]
    assert app["state"] == ["a key of type int", "a key of type Hostile", "a key of type NoneType"]
    assert hook["name"] == "hook " + repr("a\n\x1b\ud800 (b) 'c' \"d\" \\")
    assert re.fullmatch(r".*strange\.py:\d+", hook["location"])
    assert len(json.loads(trace.read_text())["traceEvents"]) == 8
    picture = "".join(ET.fromstring(svg.read_text(encoding="utf-8")).itertext())
    assert "+two\\nlines" in picture.replace("\xa0", " ")
    printed = shell(tmp_path, "strange", STRANGE, "check strange:app")
    assert "\x1b" not in printed.stdout.split("shutdown failed")[0]
    assert "Traceback" not in printed.stderr


# --- what is told ---


def test_a_failure_of_a_hook_in_an_apps_own_lifespan_is_told_once_by_the_hook(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The app's own headline would say less."""
    (tmp_path / "own_fails.py").write_text(
        "from asgi_lifespan_mw import Lifespan\n"
        "from starlette.applications import Starlette\n"
        "hooks = Lifespan()\n"
        "@hooks.on_startup\n"
        "def connect(): raise OSError('no such host')\n"
        "app = Starlette(lifespan=hooks)\n"
        "async def slow():\n"
        "    import anyio\n"
        "    await anyio.sleep(60)\n"
        "late = Lifespan()\n"
        "late.on_startup(slow, timeout=0.01)\n"
        "too_late = Starlette(lifespan=late)\n"
    )
    ran = Ran(capsys, "check", "own_fails:app", "--app-dir", str(tmp_path))
    assert ran.status == 1
    assert re.findall("startup failed in (.*?) ", ran.out) == ["hook"]
    assert ran.out.count("Traceback") == 1
    assert ran.out.count("OSError: no such host") == 2  # in the headline, and below the traceback
    ran = Ran(capsys, "check", "own_fails:too_late", "--app-dir", str(tmp_path))
    assert ran.status == 1
    assert ran.out.count("timed out after 0.01 s in hook 'slow'") == 1


def unit(name: str, depth: int, began: float | None, took: float | None) -> UnitReport:
    """Make a row of a unit that has started."""
    return UnitReport(name, "app", depth=depth, outcome="stopped", began=began, start_seconds=took)


def test_the_slowest_is_the_unit_that_took_the_longest_itself() -> None:
    """A parent that waits for the hooks of its own lifespan is not slow."""
    options = argparse.Namespace(command="check")
    rows = (
        unit("parent", 0, 0, 10),
        unit("first", 1, 1, 6),
        unit("inside the first", 2, 2, 3),
        unit("beside it", 1, 4, 4),
        unit("never began", 1, None, None),
        unit("mounted, so it starts after its parent", 1, 10, 2),
        unit("another", 0, 12, 2.5),
    )
    assert [own_start(rows[at:]) for at in range(len(rows))] == [3, 3, 3, 4, 0, 2, 2.5]
    report = Report(units=rows, start_seconds=15, stop_seconds=1)
    assert _summary(report, options).endswith("slowest to start: beside it, 4 s")


# --- the pictures ---


@pytest.fixture
def unfinished() -> Report:
    """A report of a run that is on: one unit works, one waits, one was reached and cut."""
    return Report(
        units=(
            UnitReport(unit="hook 'a' (a.py:1)", kind="hook", outcome="started", began=0.0, start_seconds=0.5),
            UnitReport(unit="mount '/b'", kind="mount", path="/" + "b" * 200, depth=1, outcome="starting", began=0.5),
            UnitReport(unit="app C", kind="app", outcome="stopping", began=0.0, start_seconds=1.0, stop_began=1.5),
        ),
        start_seconds=2.0,
    )


def test_a_run_that_is_on_can_be_drawn(unfinished: Report) -> None:
    """What is at work lasts to the end of the axis."""
    first, second, third = tree(unfinished, 80).splitlines()[1:]
    assert max(map(len, (first, second, third))) <= 80
    assert "…" in second
    assert second.endswith("█")
    assert third.endswith("▒")
    assert "a&amp;b" in as_svg(unfinished, "a&b")
    assert json.loads(as_json(unfinished))["start_seconds"] == 2.0
    spans = [event for event in json.loads(as_trace(unfinished))["traceEvents"] if event["ph"] == "X"]
    assert [span["dur"] for span in spans] == [0.5e6, 1.5e6, 1e6, 0.5e6]


@pytest.mark.parametrize("width", [1, 20, 60])
def test_a_narrow_terminal_cuts(unfinished: Report, width: int) -> None:
    """Nothing breaks, however narrow."""
    assert max(map(len, tree(unfinished, width).splitlines())) <= width


def test_an_empty_report_is_drawn_empty() -> None:
    """A run that was not begun."""
    assert tree(Report(), 80) == ""
    assert as_svg(Report(), "").startswith("<svg")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, ""), (0.0, "0 ms"), (0.0000451, "0.05 ms"), (0.00012, "0.12 ms"), (0.0123, "12.3 ms"),
        (0.99949, "999 ms"), (0.99951, "1 s"), (1.2345, "1.23 s"), (75.0, "75 s"),
    ],
)  # fmt: skip
def test_seconds_are_shown_for_people(value: float | None, told: str) -> None:
    """In seven letters at the most."""
    assert seconds(value) == told


def test_ascii_has_a_letter_for_each() -> None:
    """And escapes what it does not know."""
    assert as_ascii("✓ └─ 'é' █▒ 45 ms") == "+ `- '\\xe9' #= 45 ms"
