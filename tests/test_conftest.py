import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

IS_DEFAULT = (
    "import signal as s; print(s.getsignal(s.SIGINT) is s.default_int_handler, s.getsignal(s.SIGQUIT) is s.SIG_DFL)"
)
CTRL_C = "tests/cli/test_main.py::test_ctrl_c_during_the_import_ends_it"


def test_signals_have_their_default_in_a_test_and_in_its_processes() -> None:
    """SIGINT and SIGQUIT are not ignored, neither in a test nor in a Python that the test starts."""
    assert signal.SIG_IGN not in {signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGQUIT)}
    ran = subprocess.run([sys.executable, "-c", IS_DEFAULT], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "True True\n"


@pytest.mark.slow
def test_the_suite_can_run_in_the_background_of_a_script() -> None:
    """Tests of Ctrl-C pass where SIGINT and SIGQUIT are ignored, as they are for `pytest &` in a script."""
    here = f"tests/test_conftest.py::{test_signals_have_their_default_in_a_test_and_in_its_processes.__name__}"
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", here, CTRL_C]
    ran = subprocess.run(
        ["sh", "-c", "trap '' INT QUIT; exec \"$@\"", "sh", *pytest_command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
