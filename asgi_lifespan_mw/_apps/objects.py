"""Reading objects without running any code of theirs.

What a user keeps in an app may be lazy, broken or shared with other threads. So attributes are read from the object's
own dictionary and slots, containers are read as the built-in types that they are, and a class is searched along its
``__mro__``. No ``__getattr__``, property, ``__len__``, ``__iter__``, ``__eq__`` or ``__repr__`` is called.
"""

import dis
import functools
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any, ParamSpec, TypeGuard, TypeVar, cast

from .._types import is_a

MAX_ITEMS = 1000
"""A container with more items holds data, not apps or lifespans."""


P = ParamSpec("P")
T = TypeVar("T")


def cached_by_identity(function: Callable[P, T]) -> Callable[P, T]:
    """Cache the results of a function of classes and code by the identity of its arguments, which are kept.

    A metaclass may define ``__eq__`` without ``__hash__``, or a ``__hash__`` of its own. The cache is bounded, because
    some programs make classes by the thousand.
    """
    results: dict[tuple[int, ...], tuple[object, T]] = {}

    @functools.wraps(function)
    def cached(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (*map(id, args),)
        found = results.get(key)
        if found is None:
            if len(results) >= MAX_ITEMS:  # pragma: no cover - a program that makes code by the thousand
                results.clear()
            found = results[key] = args, function(*args, **kwargs)
        return found[1]

    return cached


def is_function(thing: object) -> TypeGuard[FunctionType]:
    """Return whether an object is a Python function, without asking its ``__class__``, by which a lazy one wakes up."""
    return issubclass(type(thing), FunctionType)


def dictionary_of(thing: object) -> dict[str, Any] | None:
    """Return an object's own dictionary; None if it has none."""
    dictionary, _ = _layout(type(thing))
    own: Any = dictionary.__get__(thing) if dictionary else None
    return own if issubclass(type(own), dict) else None


def attributes_of(thing: object) -> dict[str, Any]:
    """Return a copy of an object's own attributes, those in slots too."""
    _, slots = _layout(type(thing))
    own = dictionary_of(thing)
    found: dict[str, Any] = {} if own is None else own.copy()
    for name, slot in slots:
        try:
            found[name] = slot.__get__(thing)
        except AttributeError:  # the slot is empty
            continue
    return found


@cached_by_identity
def _layout(cls: type) -> tuple[Any, list[tuple[str, Any]]]:
    """Return the descriptor of a class's ``__dict__``, None if a class replaced it, and its slots by name."""
    dictionary = next((vars(base)["__dict__"] for base in cls.__mro__ if "__dict__" in vars(base)), None)
    slots = [
        (name, member)
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType) and base.__module__ != "builtins"
    ]
    return (dictionary if isinstance(dictionary, GetSetDescriptorType) else None), slots


def attribute_of_class(cls: type, name: str) -> Any:
    """Return a class's attribute as it stands in the class, or None."""
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    return None


_BUILT_IN: tuple[Any, ...] = (dict, list, tuple, set, frozenset, deque)


def items_of(thing: Any) -> list[Any]:
    """Return what a built-in container holds, the values of a dictionary; nothing for any other object."""
    kind: Any = next((kind for kind in _BUILT_IN if is_a(thing, kind)), None)
    if kind is None or kind.__len__(thing) > MAX_ITEMS:
        return []
    return list(kind.values(thing) if hasattr(kind, "values") else kind.__iter__(thing))


def items_within(thing: Any) -> list[Any]:
    """Return what a container holds, and the containers in it: built-in ones, namespaces and objects of dataclasses."""
    found: list[Any] = []
    todo = [(thing, 0)]
    while todo and len(found) < MAX_ITEMS:
        one, depth = todo.pop()
        items = items_of(one) or _fields_of(one)
        found += items
        if depth < _NESTED:
            todo += [(item, depth + 1) for item in items]
    return found


_NESTED = 3
"""How deep the containers in a container are looked into."""


def _fields_of(thing: Any) -> list[Any]:
    cls = cast("type[object]", type(thing))
    is_record = is_a(thing, SimpleNamespace) or attribute_of_class(cls, "__dataclass_fields__") is not None
    return [*attributes_of(thing).values()] if is_record else []


def keys_of(thing: Any) -> list[Any]:
    """Return the keys of a dictionary; nothing for any other object."""
    kind: Any = dict
    if not is_a(thing, kind) or kind.__len__(thing) > MAX_ITEMS:
        return []
    return list(kind.copy(thing))  # in one step, for another thread may change it


def called_function(thing: Any) -> tuple[FunctionType | None, tuple[object, ...]]:
    """Return the Python function that a call of `thing` runs, and the arguments that `thing` adds to it.

    It is None for what is not written in Python. Partials, bound methods and objects with ``__call__`` are resolved.
    """
    bound: tuple[object, ...] = ()
    for _ in range(MAX_ITEMS):  # functools.partial(...) may be nested, in itself even
        if is_function(thing):
            return thing, bound
        if is_a(thing, functools.partial):
            bound += tuple(thing.args) + tuple(thing.keywords.values())
            thing = thing.func
        elif is_a(thing, MethodType):
            bound = (*bound, thing.__self__)
            thing = thing.__func__
        elif is_a(thing, type, BuiltinFunctionType, ModuleType):
            return None, bound
        else:
            whole: object = thing
            call = attribute_of_class(type(whole), "__call__")
            return (call, (*bound, thing)) if is_function(call) else (None, bound)
    return None, bound


def undecorated(function: FunctionType) -> FunctionType:
    """Return the function that a function's decorators wrap, as ``__wrapped__`` names it."""
    seen = {id(function)}
    while True:
        inner = _managed(function) or function.__dict__.get("__wrapped__")
        if not is_function(inner) or id(inner) in seen:
            return function
        seen.add(id(inner))
        function = inner


def _managed(function: FunctionType) -> FunctionType | None:
    """Return the generator function that ``@asynccontextmanager`` wraps; None for any other function.

    Its ``__wrapped__`` may name another one: ``@functools.wraps(other)`` above it says so.
    """
    kept = closure_of(function).get("func") if function.__globals__.get("__name__") == "contextlib" else None
    return kept if is_function(kept) else None


def holds_nothing(function: FunctionType) -> bool:
    """Return whether a function has no closure, no defaults and no attributes, as most plain apps."""
    return not (function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__)


def closure_of(function: FunctionType) -> Mapping[str, Any]:
    """Return the variables that a function took from the functions around it, by name."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # the variable is not set yet
            continue
    return found


def defaults_of(function: FunctionType) -> Iterable[Any]:
    """Return the default values of a function's parameters."""
    return (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())


@functools.lru_cache(maxsize=1000)
def globals_in(code: Any) -> frozenset[str]:
    """Return the names of the globals that a function's code loads.

    The code of functions defined inside it counts too. ``self.sub`` loads no global, even if there is one named `sub`.
    """
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return frozenset(found.union(*(globals_in(inner) for inner in code.co_consts if isinstance(inner, type(code)))))


@functools.lru_cache(maxsize=1000)
def names_in(code: Any) -> frozenset[str]:
    """Return the names that a function's code uses, and the strings that it compares or sends.

    The code of functions defined inside it counts too.
    """
    found = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, str):
            found.add(constant)
        elif isinstance(constant, (tuple, frozenset)):
            found.update(item for item in cast("Iterable[object]", constant) if isinstance(item, str))
        elif isinstance(constant, type(code)):
            found |= names_in(constant)
    return frozenset(found)
