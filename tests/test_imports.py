"""The folders are a diagram: a module imports from its own folder and from lower ranks, for types too."""

import ast
import importlib.util
import re
from pathlib import Path

import asgi_lifespan_mw

PACKAGE = Path(asgi_lifespan_mw.__path__[0])

RANKS = [
    {"__main__"},
    {"_cli"},
    {"__init__"},
    {"_conformance"},
    {"_middleware", "_manager"},
    {"_lifespan", "_requests"},
    {"_on_request"},
    {"_run"},
    {"_reporting"},
    {"_apps", "_hooks", "_protocol"},
    {"_isolated", "locks"},
    {"_config"},
    {"_asgi"},
    {"_units"},
    {"_exceptions", "_log", "_types"},
]
"""The folders and modules from top to bottom; those of one rank do not import each other."""


def modules() -> dict[str, ast.Module]:
    """Each module of the package, by its dotted name in the package."""
    found: dict[str, ast.Module] = {}
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imports_of(name: str, module: ast.Module, *, is_package: bool) -> set[str]:
    """What a module imports of the package, wherever the import stands: at the top, in a function, for types."""
    inside = f"asgi_lifespan_mw.{name}".rstrip(".")
    package = inside if is_package else inside.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            own = target.removeprefix("asgi_lifespan_mw").removeprefix(".")
            found |= {own} if own else {alias.name for alias in node.names}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found |= {name.removeprefix("asgi_lifespan_mw.") for name in names if name.startswith("asgi_lifespan_mw.")}
    return found


def arrows() -> dict[str, set[str]]:
    """Who imports whom."""
    all_modules = modules()
    packages = {name for name in all_modules if any(other.startswith(f"{name}.") for other in all_modules)}
    return {
        name: imports_of("" if name == "__init__" else name, module, is_package=name in packages or name == "__init__")
        for name, module in all_modules.items()
    }


def rank_of(name: str) -> int:
    """The rank of a module, or of its folder."""
    [rank] = [at for at, names in enumerate(RANKS) if name.partition(".")[0] in names]
    return rank


def test_each_arrow_runs_down() -> None:
    """A module imports from its own folder and from lower ranks; types make no exception."""
    for name, imported in arrows().items():
        for other in imported:
            same_folder = name.partition(".")[0] == other.partition(".")[0]
            assert same_folder or rank_of(name) < rank_of(other), f"{name} imports {other}"


def test_no_module_imports_itself_by_others() -> None:
    """There is no circle inside a folder either."""
    left = {name: {other for other in imported if other != name} for name, imported in arrows().items()}
    while ready := [name for name, imported in left.items() if not imported & left.keys()]:
        for name in ready:
            del left[name]
    assert not left


def test_each_place_that_the_guide_names_is_there() -> None:
    """The folders, and where to change what."""
    root = Path(__file__).parent.parent
    guide = (root / "asgi_lifespan_mw/README.md").read_text(encoding="utf-8")  # not in the wheel
    names = set(re.findall(r"`((?:tests/)?[\w/]+(?:\.py)?)`", guide))
    assert len(names) > 25
    assert [
        name
        for name in names
        if not any(place.exists() for place in (root / name, PACKAGE / name, PACKAGE / f"{name}.py"))
    ] == []
