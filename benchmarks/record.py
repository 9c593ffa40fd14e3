"""Runs all benchmarks, and writes ``results.json``; ``plot.py`` makes tables and plots of it."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import bench_concurrent
import bench_import
import bench_memory
import bench_requests
import bench_served
import bench_startup

RESULTS = Path(__file__).with_name("results.json")
PACKAGES = ("anyio", "asgiref", "fastapi", "hypercorn", "starlette", "uvicorn", "uvloop")


def machine() -> str:
    """The processor, and how many there are."""
    models = [line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line]
    return f"{models[0].partition(': ')[2] if models else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit that is measured; with a plus if something was changed since."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def main() -> None:
    """Measure everything, what is sensitive to a busy machine first."""
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "served": bench_served.measure(),
        "startup": bench_startup.measure(),
        "recipe": bench_startup.measure_recipe(),
        "concurrent": bench_concurrent.measure(),
        "import": bench_import.measure(),
        "memory": bench_memory.measure(),
        "requests": bench_requests.measure(),
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
