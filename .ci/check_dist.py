"""Checks what was built: ``python check_dist.py FIRST_DIST SECOND_DIST``, two folders with an sdist and a wheel each.

The two builds have to be the same to the byte. It runs in an environment that can make another one, in which the wheel
is installed alone.
"""

import email
import email.message
import filecmp
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tokenize
import venv
import zipfile
from pathlib import Path
from tokenize import COMMENT, NL

PACKAGE = "asgi_lifespan_mw"
INSIDE = f"{PACKAGE}/README.md"  # tells contributors how the package works; it is in the sdist alone
DIRECT = {"anyio", "asgiref"}
WHEEL_LIMIT = 188 * 1024  # bytes, of which the README takes 6 KiB; what makes the wheel smaller lowers the limit
CODE_LIMIT = 7_750  # lines; it is to be 5,000. What makes it smaller lowers the limit
DESCRIPTION_LIMIT = 24 * 1024  # bytes; the README, whole
IN_SDIST = ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "benchmarks/", "tests/conftest.py", "tests/apps/")
IN_SDIST += (".ci/run", ".ci/check_dist.py", "docs/zensical.toml", "docs/index.md")
FIELDS = ("Name", "Version", "Summary", "License-Expression", "License-File", "Keywords", "Requires-Python", "Author")

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
[INSTALL] = re.findall(r"Once a version is published, it is `(pip install [\w-]+)`", README)

# Run in the environment that holds the wheel alone: prints the version, what is installed, and what is needed.
LOOK_INSIDE = """
import re
from importlib.metadata import distribution, distributions

import asgi_lifespan_mw
from pip._vendor.packaging.requirements import Requirement

def canonical(name):
    return re.sub("[-_.]+", "-", name).lower()

needed, todo = set(), ["asgi-lifespan-mw"]
while todo:
    name = canonical(todo.pop())
    if name not in needed:
        needed.add(name)
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
print(asgi_lifespan_mw.__version__)
print(*sorted({canonical(d.metadata["Name"]) for d in distributions()} - {"pip", "setuptools"}))
print(*sorted(needed))
"""


def check(condition: object, message: str) -> None:
    """End with the message if the condition does not hold."""
    if not condition:
        sys.exit(f"FAILED: {message}")


def only(folder: Path, pattern: str) -> Path:
    """The one file of this pattern."""
    found = list(folder.glob(pattern))
    check(len(found) == 1, f"{folder} holds {len(found)} files {pattern}, and not one")
    return found[0]


def check_same(first: Path, second: Path) -> None:
    """Whoever builds the same tree gets the same files."""
    names = sorted(path.name for path in first.iterdir())
    check(names == sorted(path.name for path in second.iterdir()), "the two builds made files of different names")
    for name in names:
        check(filecmp.cmp(first / name, second / name, shallow=False), f"{name} differs between two builds")


def check_metadata(metadata: email.message.Message) -> None:
    """Complete, and with no more dependencies than promised."""
    for field in FIELDS:
        check(metadata[field], f"the metadata lacks {field}")
    check(len(metadata.get_all("Classifier", [])) > 0, "the metadata lacks classifiers")
    check_description(metadata.get_payload(decode=True).decode())
    lines = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    direct = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines}
    check(direct == DIRECT, f"the wheel depends on {sorted(direct)}, and not on {sorted(DIRECT)}")


def check_description(text: str) -> None:
    """The README, which is shown where no other file is beside it."""
    size = len(text.encode())
    check(text.startswith("# asgi_lifespan_mw\n"), "the metadata lack the README")
    check(INSTALL in text, "the metadata do not tell how it is installed")
    check(size < DESCRIPTION_LIMIT, f"the long description has {size} bytes, not less than {DESCRIPTION_LIMIT}")
    check(text.endswith("## License\n\nMIT\n"), "the long description lacks the end of the README")
    blocks = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    check(blocks.findall(text) == blocks.findall(README), "the long description has other code than the README")
    links = re.findall(r"\]\((?!https://)[^)]*\)|<(?:img|a) .*", blocks.sub("", text))
    check(not links, f"the long description has links that lead nowhere: {links}")
    check(text.count("\n```") % 2 == 0, "the long description ends within a block")
    print(f"long description: {size} bytes")


def check_wheel(wheel: Path, sources: set[str]) -> email.message.Message:
    """The package, whole and alone, and small."""
    size = wheel.stat().st_size
    check(size < WHEEL_LIMIT, f"the wheel has {size} bytes, and may have less than {WHEEL_LIMIT}")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata_name] = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(metadata_name))
    strangers = [n for n in names if not n.startswith(f"{PACKAGE}/") and ".dist-info/" not in n]
    check(not strangers, f"the wheel holds more than the package: {strangers}")
    modules = {name for name in names if name.startswith(f"{PACKAGE}/")}
    check(INSIDE in sources, f"the sdist lacks {INSIDE}")
    missing = sorted(modules ^ (sources - {INSIDE}))
    check(not missing, f"wheel and sdist, but for {INSIDE}, hold different files of the package: {missing}")
    check(f"{PACKAGE}/py.typed" in names, "the wheel lacks py.typed")
    check(any(n.endswith(".dist-info/licenses/LICENSE") for n in names), "the wheel lacks the licence")
    check(any(n.endswith(".dist-info/entry_points.txt") for n in names), "the wheel lacks the command line")
    print(f"{wheel.name}: {size} bytes, {len(modules)} files of the package")
    return metadata


def code_lines(source: str) -> int:
    """The lines of a module that hold code: not the blank ones, comments and docstrings."""
    layout = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in {COMMENT, NL}]
    lines: set[int] = set()
    for before, token, after in zip([tokens[-1], *tokens], tokens, tokens[1:], strict=False):
        is_docstring = token.type == tokenize.STRING and before.type in layout and after.type == tokenize.NEWLINE
        if token.type not in layout and not is_docstring:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def check_code(wheel: Path) -> None:
    """The package can be read in one go."""
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".py")]
        lines = sum(code_lines(archive.read(name).decode()) for name in modules)
    check(lines < CODE_LIMIT, f"the package has {lines} lines of code, and may have less than {CODE_LIMIT}")
    print(f"{lines} lines of code")


def check_sdist(sdist: Path) -> set[str]:
    """All that the tests need; returns the files of the package."""
    with tarfile.open(sdist) as archive:
        names = {m.name.split("/", 1)[1] for m in archive.getmembers() if m.isfile()}
    for wanted in IN_SDIST:
        check(any(name.startswith(wanted) for name in names), f"the sdist lacks {wanted}")
    rubbish = [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    check(not rubbish, f"the sdist holds {rubbish}")
    print(f"{sdist.name}: {sdist.stat().st_size} bytes, {len(names)} files")
    return {name for name in names if name.startswith(f"{PACKAGE}/")}


def check_installed(wheel: Path, version: str) -> None:
    """Installed alone, by the README's command, it brings what its metadata says, and tells the same version."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "bin", "python"))
        # From the folder of the wheel, whatever else there is.
        command = [*INSTALL.split(), f"{INSTALL.split()[-1]}=={version}", "--quiet", "--find-links", str(wheel.parent)]
        subprocess.run([python, "-m", *command], check=True)
        output = subprocess.run([python, "-c", LOOK_INSIDE], check=True, cwd=folder, stdout=subprocess.PIPE, text=True)
    told, installed, needed = output.stdout.splitlines()
    check(told == version, f"__version__ is {told}, and the metadata's is {version}")
    check(installed == needed, f"installed are {installed}, and needed {needed}")
    print(f"version {told}; installed alone, it brings {installed}")


def main() -> None:
    """Check everything."""
    first, second = map(Path, sys.argv[1:])
    check_same(first, second)
    wheel = only(first, "*.whl")
    metadata = check_wheel(wheel, check_sdist(only(first, "*.tar.gz")))
    check_code(wheel)
    check_metadata(metadata)
    check_installed(wheel, metadata["Version"])


main()
