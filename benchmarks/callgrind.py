"""Counts the instructions that a piece of work takes, which do not depend on how busy the machine is.

A process is run twice under valgrind, with different amounts of work. The difference, divided, is what one piece costs:
imports, start and end are the same in both.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

COUNTED = Path(__file__).with_name("counted.py")


def is_there() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None


@functools.cache
def per_piece(work: str, *arguments: str, few: int, many: int) -> float:
    """The instructions for one piece of work, one of those in ``counted.py``."""
    return (_instructions(work, *arguments, str(many)) - _instructions(work, *arguments, str(few))) / (many - few)


def _instructions(*arguments: str) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, COUNTED, *arguments]
    # One seed for the hashes, and no bytecode that one of two runs would have to make.
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    counted = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or counted is None:
        sys.exit(f"{' '.join(arguments)} failed under valgrind:\n{done.stdout}{done.stderr}")
    return int(counted[1])
