"""What a newcomer does first, with the programs of the README and of the tutorial."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.harness import UVICORN, Server
from tests.test_readme import ROOT, Fence, fences, shape

TUTORIAL = [*fences("docs/getting-started.md")]
PYTHON = [fence.text for fence in TUTORIAL if fence.language == "python"]


def of(language: str, page: str, heading: str) -> Fence:
    """Return the one block of a language under a heading."""
    (found,) = [fence for fence in fences(page) if (fence.language, fence.heading) == (language, heading)]
    return found


def check(folder: Path, program: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line's check on a program that is saved as ``main.py``."""
    (folder / "main.py").write_text(program, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "asgi_lifespan_mw", "check", "main:app"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "100"},
    )


@pytest.mark.servers
def test_the_first_app_of_the_readme_is_served_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By its commands as they stand, but for the port. Ctrl-C closes what was opened."""
    serve = shlex.split(of("sh", "README.md", "A first app").text)
    command, answer = of("console", "README.md", "A first app").text.splitlines()
    assert serve == [".venv/bin/uvicorn", "main:app"]
    # A name of its own: the process of the tests may have a module `main`.
    (tmp_path / "main.py").write_text(of("python", "README.md", "A first app").text, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with Server(UVICORN, serve[-1], tmp_path / "none.db") as server:
        server.wait_until_it_serves()
        assert command == "$ curl 127.0.0.1:8000/admin/"
        asked = server.request("GET", command.partition(":8000")[2])
        assert asked.text == answer
        assert json.loads(answer) == {"database": "connected", "cache": "warm"}
        server.signal(UVICORN.stop)
        assert server.wait() == 0, str(server)
        assert "close the database" in str(server)


@pytest.mark.slow
def test_check_shows_the_app_of_the_tutorial(tmp_path: Path) -> None:
    """With its hook, its mount and their state; times are the machine's."""
    shown = of("console", "docs/getting-started.md", "Look at it").text
    assert shown.startswith("$ .venv/bin/python -m asgi_lifespan_mw check main:app\n")
    ran = check(tmp_path, "".join(PYTHON[:2]))
    assert ran.returncode == 0, ran.stderr
    assert shape(shown.partition("\n")[2]) == shape(ran.stdout)


@pytest.mark.slow
def test_the_tutorials_failure_is_that_of_a_run(tmp_path: Path) -> None:
    """The hook raises where it would open the database."""
    shown = of("text", "docs/getting-started.md", "When something fails").text.strip()
    error = "raise ConnectionRefusedError(111, 'Connection refused')"
    ran = check(tmp_path, PYTHON[0].replace('print("open the database")', error))
    assert ran.returncode == 1
    assert shown in ran.stdout + ran.stderr
    assert re.search(r"main\.py:\d+", shown)
