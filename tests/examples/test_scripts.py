"""The recipe for Celery, with a real worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import blocks

PATIENCE = 120.0
"""Seconds for a worker to start and to end: much more than is ever needed."""


@pytest.mark.servers
def test_a_celery_worker_whose_resources_fail_ends(tmp_path: Path) -> None:
    """The failure is in the log, and the worker goes with its process. Celery alone would keep both."""
    (recipe,) = [block for block in blocks("python", "docs/scripts.md") if "celery" in block]
    failing = recipe.replace('yield {"database": "a connection"}', 'raise ConnectionError("no database")\n    yield {}')
    assert failing != recipe
    (tmp_path / "shop.py").write_text(failing, encoding="utf-8")
    worker = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "shop", "worker", "-c", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert worker.returncode == 0, worker.stderr
    assert "startup failed in hook 'database'" in worker.stderr
    assert "ConnectionError: no database" in worker.stderr
