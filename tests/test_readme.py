"""README, manual and CONTRIBUTING: their examples run, and their tables are those of the code."""

import ast
import importlib.metadata
import itertools
import os
import re
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import asgi_lifespan_mw
from asgi_lifespan_mw import LifespanManager
from asgi_lifespan_mw._protocol.table import TABLE, Action, Event, Phase, Severity, Transition
from tests.servers import harness
from tests.servers.units import UNITS

ROOT = Path(__file__).parent.parent
TOP = (ROOT / "README.md").read_text(encoding="utf-8")
"""What one reads before deciding."""
BESIDE = {
    place: (ROOT / place).read_text(encoding="utf-8")
    for place in [*(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))), ".github/CONTRIBUTING.md"]
}
"""What one looks up: each page of the manual, whoever wrote it, and what contributors need."""
PAGES = {"README.md": TOP, **BESIDE}
README = "\n".join(PAGES.values())
"""All of the documentation that tells users something."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced block: where it stands, its language, the comment on the line above it, and what is in it."""

    page: str
    heading: str
    language: str
    above: str
    text: str


def fences(page: str) -> Iterator[Fence]:
    """Yield every fenced block of a page, in order. Those inside of code are text."""
    heading = above = ""
    lines = iter(PAGES[page].splitlines(keepends=True))
    for line in lines:
        if line.lstrip().startswith("```"):
            text = "".join(itertools.takewhile(lambda one: not one.lstrip().startswith("```"), lines))
            yield Fence(page, heading, line.strip(" `\n") or "none", above.strip(), text)
        elif line.startswith("#"):
            heading = line.strip("# \n")
        above = line


def blocks(language: str, page: str = "") -> list[str]:
    """Return the fenced blocks of one language, of one page or of all."""
    return [fence.text for one in PAGES if page in ("", one) for fence in fences(one) if fence.language == language]


OF_ALONE = r"^(?:import|from) (?:django|agno|google)\b"
"""Finds packages that keep settings for the whole process, so that their examples have one of their own."""


def examples() -> Iterator[Any]:
    """Yield each Python block, called by its page and heading. One that continues has those of its page before it."""
    for page in PAGES:
        before = ""
        for number, fence in enumerate(fences(page)):
            if fence.language == "python":
                before = before + fence.text if fence.above == "<!-- continues -->" else fence.text
                has_process = "def test_" in before or re.search(OF_ALONE, before, re.MULTILINE)
                marks = [pytest.mark.slow] if has_process else []
                yield pytest.param(before, id=f"{page}, {number}, {fence.heading}", marks=marks)


def run(block: str, folder: Path, *program: str) -> str:
    """Run a block in a process of its own, and return what it prints."""
    (folder / "test_example.py").write_text(block, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, *program, "test_example.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


OPTIONAL = ["aiojobs", "alembic", "apscheduler", "channels", "dishka", "fastmcp", "google", "agno", "mcp", "modern_di"]
OPTIONAL += [r"opentelemetry\.sdk", "prometheus_client", "sentry_sdk", "stamina", "structlog", "svcs"]
"""Packages whose examples are skipped where they are missing."""


@pytest.mark.filterwarnings("ignore:\\s*on_event is deprecated:DeprecationWarning")
@pytest.mark.parametrize("block", [*examples()])
def test_each_example_runs_as_it_stands(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is a program, or a file of tests; where it makes an app, its lifespan can be run."""
    for package in re.findall(rf"^(?:import|from) ({'|'.join(OPTIONAL)})\b", block, re.MULTILINE):
        pytest.importorskip(package)
    if "def test_" in block:
        assert re.search(
            r" [12] passed in ", run(block, tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:dash")
        )
        return
    if re.search(OF_ALONE, block, re.MULTILINE):
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop/settings.py").write_text(SETTINGS, encoding="utf-8")
        run(f"{block}\n\n{LIVE if re.search(r'^app(lication)? =', block, re.MULTILINE) else ''}", tmp_path)
        return
    monkeypatch.chdir(tmp_path)  # for the files of locks
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(block, "README.md", "exec"), names)
    if "app" in names:
        import anyio

        async def main() -> None:
            async with LifespanManager(names["app"]):
                pass

        anyio.run(main)


SETTINGS = """
ALLOWED_HOSTS, ROOT_URLCONF, SECRET_KEY = ["*"], "shop.settings", "for tests"
urlpatterns = []
"""
"""The project of the Django examples."""
LIVE = """
import anyio
from asgi_lifespan_mw import LifespanManager

async def live():
    async with LifespanManager(globals().get("application") or app, 60):
        pass

anyio.run(live)
"""


@pytest.mark.slow
def test_the_example_for_celery_has_its_resources(tmp_path: Path) -> None:
    """While a process of the worker's runs; its signals are sent here without one."""
    (block,) = [block for block in blocks("python") if "celery" in block]
    lived = "worker_process_init.send(None)\nprint(report())\nworker_process_shutdown.send(None)\n"
    threads = "import threading\nprint(threading.active_count())\n"
    assert run(block + lived + threads, tmp_path) == "the sum, by a connection\n1\n"


def cell(phase: Phase, transition: Transition) -> str:
    """One cell of the table: where the step leads, and how serious it is."""
    leads = {
        Action.GIVES_STARTUP: f"{transition.next_phase.value}",
        Action.GIVES_SHUTDOWN: f"{transition.next_phase.value}, when it is time",
        Action.WAITS: "waits",
        Action.CANCELS: "is cancelled"
        if transition.next_phase is phase
        else f"{transition.next_phase.value}, is cancelled",
        Action.NOTHING: transition.next_phase.value if transition.next_phase is not phase else "-",
    }[transition.action]
    return leads if transition.severity is Severity.FINE else f"{leads} ({transition.severity.value})"


def protocol_table() -> str:
    """The table of the protocol, as the README has it."""
    lines = [f"| the app … | {' | '.join(phase.value for phase in Phase)} |", "|---" * (len(Phase) + 1) + "|"]
    lines += [f"| {step.value} | {' | '.join(cell(phase, TABLE[phase][step]) for phase in Phase)} |" for step in Event]
    return "\n".join(lines)


BLOCKS = {
    "README.md": [
        ("Install", "sh", "../.ci/run::install"),
        ("A first app", "sh", "examples/test_first_steps.py::test_the_first_app_of_the_readme_is_served_and_asked"),
        (
            "A first app",
            "console",
            "examples/test_first_steps.py::test_the_first_app_of_the_readme_is_served_and_asked",
        ),
        ("See what starts", "sh", "test_readme.py::test_the_picture_and_its_text_are_those_of_the_command_beside_them"),
        (
            "See what starts",
            "text",
            "test_readme.py::test_the_picture_and_its_text_are_those_of_the_command_beside_them",
        ),
        ("Guarantees", "text", "test_readme.py::test_the_failure_at_the_top_is_that_of_the_manual"),
        ("Try it in a checkout", "sh", "../.ci/run::example"),
        ("Try it in a checkout", "sh", "../.ci/run::tests"),
    ],
    "docs/cancellation.md": [
        (heading, "output", "test_cancellation_page.py::test_each_program_prints_what_the_page_shows")
        for heading in ("A worker", "A worker", "A context", "Task groups")
    ],
    "docs/deploying.md": [
        ("Commands", "sh", "servers/test_deploying.py::test_each_command_serves_and_stops_at_sigterm"),
        ("Docker", "dockerfile", "servers/test_deploying.py::test_the_image_and_the_service_run_the_first_command"),
        ("Kubernetes", "yaml", "servers/test_deploying.py::test_what_may_kill_waits_until_the_app_has_stopped"),
        ("systemd", "ini", "servers/test_deploying.py::test_systemd_takes_the_service"),
    ],
    "docs/examples.md": [
        ("The shop", "sh", "servers/test_examples.py::test_the_shop_is_served_and_visited_as_the_readme_says"),
        ("The shop", "sh", "servers/test_examples.py::test_the_shop_is_served_and_visited_as_the_readme_says"),
    ],
    "docs/failures.md": [("A failed startup", "text", "test_log.py::test_the_failure_in_the_readme_is_that_of_a_run")],
    "docs/getting-started.md": [
        ("Install", "sh", "test_readme.py::test_the_manual_installs_as_the_readme_does"),
        ("Look at it", "console", "examples/test_first_steps.py::test_check_shows_the_app_of_the_tutorial"),
        ("When something fails", "text", "examples/test_first_steps.py::test_the_tutorials_failure_is_that_of_a_run"),
    ],
    "docs/locks.md": [("Who leads", "text", "locks/test_page.py::test_the_lines_of_the_page_are_those_of_a_run")],
    "docs/reference.md": [("The log", "text", "test_log.py::test_the_lines_in_the_readme_are_those_of_a_run")],
    ".github/CONTRIBUTING.md": [
        ("Contributing", "sh", "../.ci/run::setup"),
        ("The loop of tests", "sh", "../.ci/run::loop"),
        ("The manual", "sh", "../.ci/run::docs"),
        ("Make a release", "sh", "../.ci/run::build"),
    ],
}
"""The fenced blocks that are not Python, by page and heading, each with the test that runs it or compares it.
One that is run as it stands has its name for ``.ci/run`` in a comment above it."""


@pytest.mark.parametrize("page", [*PAGES])
def test_every_block_is_run_or_compared(page: str) -> None:
    """Python by the tests above, each other one by the test that is named for it; a new block needs one."""
    others = [fence for fence in fences(page) if fence.language != "python"]
    shown_by = BLOCKS.get(page, [])
    assert [(fence.heading, fence.language) for fence in others] == [block[:2] for block in shown_by]
    for fence, (_, _, place) in zip(others, shown_by, strict=True):
        file, _, name = place.partition("::")
        text = (Path(__file__).parent / file).read_text(encoding="utf-8")
        if file.startswith("../.ci/"):
            assert fence.above == f"<!-- ci: {name} -->"
            assert re.search(rf"run_readme_blocks .*\b{name}\b|<!-- ci: {name} -->", text)
        else:
            assert f"def {name}(" in text, place


def test_every_file_that_is_named_is_there() -> None:
    """Also what is run by a command, and what a link leads to."""
    prose = re.sub(r"^```python\n.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"(?<![\w/])(?:\.ci|asgi_lifespan_mw|benchmarks|docs|tests)/[\w/.-]*\w", prose))
    named -= {"docs/site"}  # which a command makes
    assert len(named) > 15
    installed = Path(asgi_lifespan_mw.__path__[0]).parent  # the code may be installed elsewhere; its README never is
    assert [name for name in named if not (ROOT / name).exists() and not (installed / name).exists()] == []


def test_each_integration_is_an_example_that_is_served() -> None:
    """It says how to serve it, and a test does."""
    (text,) = re.findall(r"<!-- table: examples -->\n(.*?)<!-- end -->", README, re.DOTALL)
    names = [name.removesuffix(".py") for name in re.findall(r"^\| `(.*?)` \|", text, re.MULTILINE)]
    assert len(names) == 7
    tests = (ROOT / "tests/servers/test_examples.py").read_text(encoding="utf-8")
    for name in names:
        module = f"tests.apps.{name}{'.main' if name == 'shop' else ''}"
        told = ast.get_docstring(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))) or ""
        assert re.search(rf"Serve it with ``(uvicorn|gunicorn -k \S+) {module}:\w+``", told), name
        assert f'"{module}:' in tests, name


SERVERS = {
    "uvicorn 0.54, `--lifespan auto` or `on`": [harness.UVICORN, harness.UVICORN_ON],
    "uvicorn `--workers`": [harness.UVICORN_WORKERS],
    "uvicorn `--reload`": [harness.UVICORN_RELOAD],
    "hypercorn 0.18, on asyncio, uvloop or trio": [harness.HYPERCORN, harness.HYPERCORN_TRIO],
    "hypercorn `-w 0`": [harness.HYPERCORN_ALONE],
    "granian 2.8": [harness.GRANIAN],
    "gunicorn 27 `-k uvicorn_worker.UvicornWorker`": [harness.GUNICORN_UVICORN],
    "gunicorn 27 `-k asgi`": [harness.GUNICORN_ASGI],
    "daphne 4.2, uvicorn `--lifespan off`, httpx's `ASGITransport`": [harness.DAPHNE, harness.UVICORN_OFF],
}
"""The rows of the limits by server, and with which servers they are shown."""


def test_the_limits_by_server_are_those_of_the_tests() -> None:
    """The exit status after a failed startup, whether a worker gets a successor, and no newer version than is here."""
    (table,) = re.findall(r"^## By server\n(.*?)^## ", BESIDE["docs/servers.md"], re.DOTALL | re.MULTILINE)
    cells = [line[2:-2].split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    rows = {server: (status, notes) for server, status, notes in cells}
    assert [*rows] == [*SERVERS]
    for name, (status, notes) in rows.items():
        for setup in SERVERS[name]:
            if setup in harness.WITHOUT_LIFESPAN:
                assert status == "has no startup"
            elif setup.stays_up:
                assert status.startswith("stays up")
            else:
                assert re.match(rf"{setup.failure}\b", status)
                assert ("is replaced" in notes) == setup.replaces_workers
        for server, version in re.findall(r"^(\w+) (\d[\d.]*)", name):
            installed = importlib.metadata.version(server).split(".")
            assert [int(part) for part in installed[:2]] >= [int(part) for part in version.split(".")]


def test_the_table_of_servers_has_their_exit_status() -> None:
    """Compare the short table with the setups of the tests."""
    (text,) = re.findall(r"^## Servers\n(.*?)^## ", TOP, re.DOTALL | re.MULTILINE)
    rows = dict(re.findall(r"^\| (\w+) \| (\d[^|]*?) \|", text, re.MULTILINE))
    assert rows == {
        "uvicorn": f"{harness.UVICORN.failure}; {harness.UVICORN_WORKERS.failure} with `--workers`",
        "hypercorn": f"{harness.HYPERCORN.failure}; {harness.HYPERCORN_ALONE.failure} with `-w 0`",
        "granian": str(harness.GRANIAN.failure),
        "gunicorn": str(harness.GUNICORN_UVICORN.failure),
    }
    assert harness.GUNICORN_ASGI.failure == harness.GUNICORN_UVICORN.failure


def test_the_changelog_tells_of_this_version() -> None:
    """First, or below what is not released yet; each with its day."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    released = [heading for heading in headings if heading != "[Unreleased]"]
    assert headings[-len(released) :] == released
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - 20\d\d-\d\d-\d\d", heading) for heading in released)
    assert released[0].startswith(f"[{asgi_lifespan_mw.__version__}]")


def test_the_table_of_the_protocol_is_the_codes() -> None:
    """Whoever changes the rules changes the README."""
    assert f"<!-- table: protocol -->\n{protocol_table()}\n<!-- end -->" in README


def shape(text: str) -> list[str]:
    """What a report shows, without times, bars and the version of Python."""
    text = re.sub(r"Python \S+", "Python", re.sub(r"\d+(\.\d+)? [mµ]?s\b", "T", text))
    text = re.sub(r"slowest to start: .*", "", re.sub(r"[█▒─ ]*[█▒][█▒ ]*", " # ", re.sub("─{3,}", "", text)))
    return [re.sub(r" +", " ", line).strip() for line in text.splitlines()]


@pytest.mark.slow
def test_the_picture_and_its_text_are_those_of_the_command_beside_them(tmp_path: Path) -> None:
    """The command draws and prints the same units with the same state; the stored picture and text are of one run."""
    pattern = r"<!-- example: check -->\n```sh\n\.venv/bin/python (.*?)\n```\n\n!\[.*?\]\((.*?)\)\n\n<details>.*?```text\n(.*?)```"  # noqa: E501
    ((command, place, shown),) = re.findall(pattern, TOP, re.DOTALL)
    drawn = tmp_path / "shop.svg"
    ran = subprocess.run(
        [sys.executable, *command.replace(place, str(drawn)).split()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "100"},  # as wide as where nothing tells a width; a parent's readline may
    )
    assert shape(shown) == shape(ran.stdout)
    assert [*shown].count("✓") == len(UNITS)
    assert shape(picture_text(ROOT / place)) == shape(picture_text(drawn))
    assert re.findall(r"[\d.]+ [mµ]?s", picture_text(ROOT / place)) == re.findall(r"[\d.]+ [mµ]?s", shown)


def picture_text(file: Path) -> str:
    """Return the lines that a picture shows."""
    texts = ET.fromstring(file.read_text(encoding="utf-8")).iter("{http://www.w3.org/2000/svg}text")
    return "".join(text.text or "" for text in texts).replace("\xa0", " ")


def test_the_failure_at_the_top_is_that_of_the_manual() -> None:
    """Which is compared with a run."""
    assert blocks("text", "README.md")[1:] == blocks("text", "docs/failures.md")


def test_the_manual_installs_as_the_readme_does() -> None:
    """By the command that CI runs."""
    assert blocks("sh", "docs/getting-started.md")[:1] == blocks("sh", "README.md")[:1]


def test_the_top_is_problem_then_installation_then_one_example() -> None:
    """Check what comes first, and that the problem is told in three lines."""
    top = TOP.partition("\n## See what starts")[0]
    assert top.index(" -m venv") < top.index("from fastapi") < top.index("curl ")
    assert len(top.partition("\n## ")[0].strip().splitlines()) <= 5


@pytest.mark.parametrize(("file", "page"), [("first_example", "README.md"), ("registered_hooks", "docs/hooks.md")])
def test_the_main_examples_are_type_checked(file: str, page: str) -> None:
    """Compare them with the copies that mypy and pyright check in their strict modes."""
    copy = (ROOT / f"tests/typing/{file}.py").read_text(encoding="utf-8")
    assert copy.partition('"""\n\n')[2] == blocks("python", page)[0]


def test_the_chapters_are_in_the_order_of_a_reader() -> None:
    """Check the order of the chapters, and that the README has at most 300 lines."""
    prose = re.sub(r"^```.*?^```", "", TOP, flags=re.DOTALL | re.MULTILINE)
    chapters = ["Install", "A first app", "See what starts", "Which of the three ways", "Guarantees", "The manual"]
    chapters += ["When not to use it", "Servers", "Performance", "Try it in a checkout", "License"]
    assert re.findall(r"^## (.*)$", prose, re.MULTILINE) == chapters
    assert len(TOP.splitlines()) <= 300


def test_each_page_is_in_the_navigation_and_only_what_is_there() -> None:
    """A new page has its place in the settings of the site."""
    settings = (ROOT / "docs/zensical.toml").read_text(encoding="utf-8")
    listed = re.findall(r'^ *\{ "[^"]+" = "([\w-]+\.md)" \}', settings, re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def headings_of(text: str) -> set[str]:
    """What a link into a file may name."""
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }


def test_each_link_leads_to_a_file_and_a_heading() -> None:
    """A heading or a file that is renamed takes its links along."""
    for place, whole in PAGES.items():
        text = re.sub(r"^```.*?^```", "", whole, flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\((?!https?:)([^)]*)\)", text):
            file, _, heading = link.partition("#")
            target = ((ROOT / place).parent / file).resolve() if file else ROOT / place
            target = target / "README.md" if target.is_dir() else target
            assert target.exists(), f"{place}: {link}"
            assert not heading or heading in headings_of(target.read_text(encoding="utf-8")), f"{place}: {link}"


def test_each_extra_that_is_installed_exists() -> None:
    """Pip only warns of one that does not."""
    asked = re.findall(r"pip install -q -e '\.\[(\w+)\]'", "".join(blocks("sh")))
    assert asked == ["example", "test", "dev", "docs"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(asked) <= set(settings["project"]["optional-dependencies"])


SHOWN_BY = {
    "Complete": [
        "servers/test_inside.py::test_everything_is_started_and_stopped_once_in_order",
        "discovery/test_discovery.py::test_an_app_mounted_under_several_names_is_started_once",
        "discovery/test_shapes.py::test_each_app_starts_exactly_once",
    ],
    "In order": [
        "servers/test_signals.py::test_a_signal_stops_everything_once_in_reverse_order",
        "discovery/test_discovery.py::test_mounts_start_in_route_order_each_parent_before_its_children",
        "units/test_supervisor.py::test_units_start_in_order_and_stop_in_reverse",
    ],
    "One answer": [
        "model/test_model.py::test_every_plan",
        "units/test_supervisor.py::test_a_failure_is_announced_after_the_clean_up",
    ],
    "Clear failures": [
        "servers/test_faults.py::test_a_part_that_does_not_start_keeps_the_server_from_serving",
        "test_middleware.py::test_a_failed_hook_is_named_with_file_line_and_traceback",
        "units/test_supervisor.py::test_errors_of_the_clean_up_come_after_the_cause",
    ],
    "No silent hang": [
        "units/test_supervisor.py::test_a_slow_unit_is_named_in_the_log",
        "units/test_supervisor.py::test_the_startup_timeout_names_the_unit",
        "units/test_supervisor.py::test_the_timeout_of_one_hook_is_its_own",
    ],
    "Cancellation": [
        "servers/test_signals.py::test_a_cancellation_in_place_of_a_shutdown_stops_all_in_order",
        "units/test_supervisor.py::test_a_cancellation_is_followed_by_a_bounded_stop",
    ],
    "Straight through": [
        "test_middleware.py::test_a_request_gets_the_apps_own_awaitable",
        "test_middleware.py::test_a_requests_traceback_does_not_show_us",
    ],
    "Never worse": [
        "servers/test_without_lifespan.py::test_a_server_without_lifespan_serves_all_the_same",
        "protocol/test_session.py::test_an_app_that_raises_before_it_receives_is_unsupported",
        "discovery/test_state.py::test_a_scope_may_lack_state_and_asgi",
    ],
}
"""Where to look for a proof of each guarantee, among others."""


def test_each_guarantee_is_shown_by_tests() -> None:
    """By those that are named here, which exist."""
    (chapter,) = re.findall(r"^## Guarantees\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    assert re.findall(r"^\| \*\*(.*?)\*\*", chapter, re.MULTILINE) == [*SHOWN_BY]
    for place in [place for places in SHOWN_BY.values() for place in places]:
        file, _, name = place.partition("::")
        assert f"def {name}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), place
