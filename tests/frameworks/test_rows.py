"""The names in the table of containers are those of the frameworks."""

import importlib
import importlib.util
import warnings

import pytest

from asgi_lifespan_mw._apps.frameworks import ROWS, ContainerSpec
from tests.frameworks.versions import REQUIRED

_OF_PYTHON = {"builtins.method": "types.MethodType"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_names_a_class(row: ContainerSpec) -> None:
    """A framework that renames one would no longer be looked into."""
    module, _, name = _OF_PYTHON.get(row.name, row.name).rpartition(".")
    if importlib.util.find_spec(module.partition(".")[0]) is None and not REQUIRED:
        pytest.skip(f"{module} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what frameworks do when they are imported is theirs
        assert isinstance(getattr(importlib.import_module(module), name), type)
