"""The README's table of frameworks."""

from pathlib import Path

import pytest
from packaging.version import Version

from tests.frameworks.versions import FRAMEWORKS, REQUIRED, Framework, installed

README = (Path(__file__).parent.parent.parent / "docs" / "frameworks.md").read_text(encoding="utf-8")


def test_the_table_of_frameworks_is_that_of_the_tests() -> None:
    """In the order of the names."""
    lines = ["| framework | version | started inside | notes |", "|---|---|---|---|"]
    lines += [f"| {one.distribution} | {one.tested} | {one.found} | {one.notes} |" for one in FRAMEWORKS]
    _, _, rest = README.partition("<!-- table: frameworks -->\n")
    assert rest.partition("\n<!-- end -->")[0].splitlines() == lines  # one by one: who adds one sees which is missing
    names = [one.distribution for one in FRAMEWORKS]
    assert names == sorted(names)


@pytest.mark.skipif(not REQUIRED, reason="versions are compared where the frameworks are asked for")
@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.distribution)
def test_no_version_is_named_that_is_newer_than_what_is_tested(framework: Framework) -> None:
    """What comes out later is tested as well, and is no reason to fail before somebody writes it down."""
    found = installed(framework.distribution)
    assert found is None or Version(found) >= Version(framework.tested)
