"""What importing the package costs, beside ``import anyio, asgiref.typing``, each in processes of their own.

Bytecode is made before. Modules are imported when a name is first asked for, so what an app asks for is timed as well.
"""

import os
import statistics
import subprocess
import sys

BASE = "import anyio, asgiref.typing"
STATEMENTS = {
    "import asgi_lifespan_mw": "import asgi_lifespan_mw",
    "the middleware": "from asgi_lifespan_mw import LifespanMiddleware",
    "the middleware, in a process that has asyncio and logging": "from asgi_lifespan_mw import LifespanMiddleware",
    "starlette.applications, for comparison": "from starlette.applications import Starlette",
}
FOREIGN = ("trio", "starlette", "fastapi", "uvicorn", "hypercorn", "granian", "django")
ROUNDS = 15


def milliseconds(statement: str, before: str) -> float:
    """How long a statement takes after another one, in a new process."""
    code = (
        f"{before}\nimport time\nbegan = time.perf_counter()\n{statement}\nprint((time.perf_counter() - began) * 1e3)"
    )
    return float(_output(code))


def foreign() -> list[str]:
    """What is imported with all public names that is not to be."""
    code = "import sys\nfrom asgi_lifespan_mw import *\nprint(*{name.partition('.')[0] for name in sys.modules})"
    return [name for name in _output(code).split() if name in FOREIGN]


def _output(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


def measure() -> dict[str, list[float]]:
    """Milliseconds for each statement: lower quartile, median, upper quartile."""
    results: dict[str, list[float]] = {}
    for name, statement in STATEMENTS.items():
        before = f"{BASE}, asyncio, logging" if "asyncio" in name else BASE
        milliseconds(statement, before)
        results[name] = statistics.quantiles([milliseconds(statement, before) for _ in range(ROUNDS)], n=4)
    return results


def table(results: dict[str, list[float]]) -> str:
    """The results as a table in Markdown."""
    lines = ["| after `import anyio, asgiref.typing` | ms | quartiles |", "|---|--:|--:|"]
    lines += [f"| {name} | {times[1]:.1f} | {times[0]:.1f} to {times[2]:.1f} |" for name, times in results.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
    print("\nforeign modules:", foreign() or "none")
