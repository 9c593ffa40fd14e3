"""The page on cancellation: each of its programs prints what stands below it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parent.parent / "docs" / "cancellation.md").read_text(encoding="utf-8")


def programs() -> Iterator[Any]:
    """Each program with its output, named by the hook in it."""
    for program, output in re.findall(r"^```python\n(.*?)^```\n\n```output\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        yield pytest.param(program, output, id=f"{output.splitlines()[0]} first")


def test_each_program_has_an_output() -> None:
    """A block without one would not be run."""
    assert len([*programs()]) == PAGE.count("```python\n") == 4


@pytest.mark.parametrize(("program", "output"), [*programs()])
def test_each_program_prints_what_the_page_shows(program: str, output: str, tmp_path: Path) -> None:
    """Run it in a process of its own."""
    file = tmp_path / "program.py"
    file.write_text(program, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (ran.stdout, ran.returncode) == (output, 0), ran.stderr
