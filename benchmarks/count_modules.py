"""Counts how far a reader jumps: changes of module in one lifespan of a bare app, and the lengths of functions.

A change of module is a call of a function of the package that is in another module than the one called before. Calls of
other packages do not count. The length of a function is its lines of code, without docstring, comments and blank lines.
"""

import ast
import asyncio
import io
import statistics
import sys
import tokenize
from pathlib import Path
from types import FrameType
from typing import Any

import subjects

import asgi_lifespan_mw

PACKAGE = Path(asgi_lifespan_mw.__file__).parent
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """An app with a lifespan and nothing in it."""
    await subjects.mounted()(scope, receive, send)


def changes_of_module() -> tuple[int, int]:
    """The changes of module in one lifespan of a bare app, and how many modules took part."""
    app = subjects.ours(bare)
    asyncio.run(subjects.lifespan(app))  # what is imported or remembered at the first time is there now
    visited: list[str] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)) and visited[-1:] != [file]:
            visited.append(file)

    sys.setprofile(profile)
    try:
        asyncio.run(subjects.lifespan(app))
    finally:
        sys.setprofile(None)
    return len(visited) - 1, len(set(visited))


def lengths() -> list[int]:
    """The lines of code of each function of the package."""
    result: list[int] = []
    for file in sorted(PACKAGE.rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        code = {
            line for token in tokens if token.type not in NO_CODE for line in range(token.start[0], token.end[0] + 1)
        }
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = {*range(node.lineno, node.body[0].lineno)}
                lines |= {line for part in body for line in range(part.lineno, (part.end_lineno or 0) + 1)}
                result.append(len(code & lines))
    return result


def main() -> None:
    """Print the figures."""
    changes, modules = changes_of_module()
    print(f"one lifespan of a bare app: {changes} changes of module, {modules} modules")
    found = lengths()
    print(
        f"{len(found)} functions: median {statistics.median(found):g} lines of code, "
        f"90th percentile {statistics.quantiles(found, n=10)[-1]:g}, longest {max(found)}"
    )


if __name__ == "__main__":
    main()
