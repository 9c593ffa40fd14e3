"""Which app's lifespan holds another app: the order of siblings, and hooks that start an app when we cannot see it.

Functions and objects are read and are never called; see `objects`. Only the order hangs on what is found here, and
whether an app is started whose lifespan function a background hook holds.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .._types import is_a
from .frameworks import UNKNOWN, spec_of
from .node import AppNode
from .objects import (
    MAX_ITEMS,
    attributes_of,
    called_function,
    closure_of,
    defaults_of,
    globals_in,
    is_function,
    items_within,
    undecorated,
)

_STEPS = 3
"""How many steps from a function what it holds is looked for."""


def held_by(lifespan: Any) -> Iterator[Any]:
    """Return what a lifespan or a hook holds: in closures, defaults, bound objects, globals that it names."""
    todo, seen = [(lifespan, 0)], set[int]()
    while todo and len(seen) < MAX_ITEMS:
        thing, steps = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        yield thing
        if steps == _STEPS or spec_of(thing) is not UNKNOWN:
            continue
        function, bound = called_function(thing)
        if function is not None and (is_function(thing) or function is not thing):
            inner = undecorated(function)
            yield inner
            named = (inner.__globals__.get(name) for name in globals_in(inner.__code__))
            held = [*closure_of(inner).values(), *defaults_of(inner), *bound, *named]
        else:
            held = []
        held += items_within(thing)
        if not is_function(thing) and not is_a(thing, type):
            held += attributes_of(thing).values()
        todo += [(one, steps + 1) for one in held if one is not None and not is_a(one, str, int, bytes, float)]


def in_start_order(siblings: Sequence[AppNode]) -> list[AppNode]:
    """Return siblings in the order of their start: route order, but one that holds another app comes before it."""
    holders = holders_of(siblings)
    if not holders:
        return [*siblings]
    ordered: list[AppNode] = []
    seen = set[int]()
    for sibling in siblings:
        todo = [sibling]
        while todo:
            node = todo[-1]
            before = [holder for holder in holders.get(id(node), ()) if id(holder) not in seen]
            if id(node) in seen or not before:  # what hold each other keep the order of the routes
                todo.pop()
                if not any(node is one for one in ordered):
                    ordered.append(node)
            else:
                todo += reversed(before)
            seen.add(id(node))
    return ordered


def holders_of(siblings: Sequence[AppNode]) -> dict[int, list[AppNode]]:
    """Return which siblings hold a sibling, by the identity of that one; only for those that are held."""
    parts = {key: node for node in siblings for key in _parts_of(node)}
    found: dict[int, list[AppNode]] = {}
    for node in siblings:
        for lifespan in node.lifespans:
            for thing in held_by(lifespan):
                held = parts.get(id(thing))
                if held is not None and held is not node and thing is not lifespan:
                    found.setdefault(id(held), []).append(node)
    return found


def _parts_of(node: AppNode) -> Iterator[int]:
    yield from node.members
    yield from (id(owner) for owner, _ in node.doors)


def holds_lifespan_of(node: AppNode, hooks: Iterable[Any]) -> bool:
    """Return whether a hook holds the lifespan function of an app, so that it may call the function by its name."""
    functions = {id(undecorated(function)) for function in map(_function_of, node.lifespans) if function is not None}
    return bool(functions) and any(id(thing) in functions for hook in hooks for thing in held_by(hook))


def _function_of(lifespan: Any) -> Any:
    return called_function(lifespan)[0]
