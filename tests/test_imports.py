"""The folders are a diagram: a module imports from its own folder and from lower ranks, for types too."""

import ast
import importlib.util
import re
from pathlib import Path

import asgi_lifespan_mw

PACKAGE = Path(asgi_lifespan_mw.__path__[0])

GUIDE = (Path(__file__).parent.parent / "asgi_lifespan_mw/README.md").read_text(encoding="utf-8")  # not in the wheel


def table(name: str) -> list[list[str]]:
    """The cells of a table of the guide, without its head."""
    text = GUIDE.partition(f"<!-- table: {name} -->")[2].partition("<!-- end -->")[0]
    return [line.strip("| ").split(" | ") for line in text.strip().splitlines()[2:]]


RANKS = [set(re.findall(r"`(\w+)`", row[0])) for row in table("ranks")]
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
            found |= (
                {own}
                if own
                else {alias.name if (PACKAGE / f"{alias.name}.py").exists() else "__init__" for alias in node.names}
            )
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


def test_each_folder_and_module_has_one_rank() -> None:
    """The guide lists them all."""
    ranked = sorted(name for names in RANKS for name in names)
    assert ranked == sorted({name.partition(".")[0] for name in modules()})


STATE = re.compile(
    r"^\s*(?:self\.)?(\w+)\b.*? = (?:ContextVar|threading\.local|Weak(?:Set|KeyDictionary|ValueDictionary))[\[(]",
    re.MULTILINE,
)


def test_the_guide_lists_all_hidden_state() -> None:
    """Context variables, thread-locals, weak containers, tables that grow. Caches: `_apps`, a class in `_units`."""
    found: set[tuple[str, str]] = {("_table", "_apps/frameworks.py")}
    for file in PACKAGE.rglob("*.py"):
        name, text = file.relative_to(PACKAGE).as_posix(), file.read_text(encoding="utf-8")
        found |= {(variable, name) for variable in STATE.findall(text)}
        assert (
            name.startswith("_apps/")
            or name == "_units/backend.py"
            or not re.search(r"\b(lru_cache|functools\.cache)\b", text)
        ), name
    listed = {(row[0].strip("`"), row[1].rpartition(" in ")[2].strip("`")) for row in table("state")}
    assert listed == found


def test_each_place_that_the_guide_names_is_there() -> None:
    """The folders, and where to change what."""
    root = Path(__file__).parent.parent
    names = set(re.findall(r"`((?:tests/)?[\w/]+(?:\.py)?)`", GUIDE))
    names -= {row[0].strip("`") for row in table("state")}
    assert len(names) > 25
    assert [
        name
        for name in names - {"check_lifespan", "register_container"}
        if not any(place.exists() for place in (root / name, PACKAGE / name, PACKAGE / f"{name}.py"))
    ] == []
