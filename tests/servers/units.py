"""What the shop and the tea room start and stop, and in which order."""

from typing import Final

#: What the shop starts, in this order: the middleware's hook, the wrapped app, the mounts in route order.
UNITS: Final = [
    "exchange rates",
    "database",
    "admin",
    "metrics",
    "reports",
    "assistant of the MCP SDK",
    "assistant of FastMCP",
]

#: What the tea room of ``tests.apps.faults`` starts where nothing fails.
TEA_ROOM: Final = ["till", "kettle", "shop", "admin", "metrics"]


def started(units: list[str]) -> list[str]:
    """What the units announce when they start."""
    return [f"started {unit}" for unit in units]


def stopped(units: list[str]) -> list[str]:
    """What the units announce when they stop, in reverse order."""
    return [f"stopped {unit}" for unit in reversed(units)]
