import functools
import types
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastmcp import FastMCP
from fastmcp.utilities.lifespan import combine_lifespans
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Router

from asgi_lifespan_mw import Lifespan, LifespanMiddleware
from asgi_lifespan_mw._apps.discovery import Identity
from asgi_lifespan_mw._apps.references import MOST_ITEMS, Claim, Reading

LifespanFunction = Callable[[Any], AbstractAsyncContextManager[Any]]


def claim(lifespan: object, app: object) -> Claim:
    """What reading a lifespan says of an app."""
    return Reading(lifespan).claim(list(Identity(app).aliases), Identity(app).lifespans)


@asynccontextmanager
async def lifespan_of_sub(app: object) -> AsyncIterator[None]:  # pragma: no cover - it is read, not run
    """The lifespan of the sub-app in this module."""
    raise AssertionError
    yield


@asynccontextmanager
async def lifespan_of_nobody(app: object) -> AsyncIterator[None]:  # pragma: no cover - it is read, not run
    """A lifespan that names nothing."""
    raise AssertionError
    yield


SUB = Starlette(lifespan=lifespan_of_sub)
SUBS = {"/sub": [(SUB,)]}
MANY = [object() for _ in range(MOST_ITEMS)] + [SUB]
HERE = types.ModuleType("here")
HERE.sub = SUB  # type: ignore[attr-defined]


def test_an_unrelated_lifespan_claims_nothing() -> None:
    """It neither holds nor names the app."""
    assert claim(lifespan_of_nobody, SUB) is Claim.NONE
    assert claim(lifespan_of_sub, Starlette()) is Claim.NONE


def test_the_default_lifespan_of_frameworks_claims_nothing() -> None:
    """It holds its router, with all the routes and mounts, and runs none of them."""
    for app in (FastAPI(), Starlette()):
        app.mount("/sub", SUB)
        assert claim(app.router.lifespan_context, SUB) is Claim.NONE


# --- What a lifespan holds ---


def test_a_lifespan_that_is_bound_to_one_app_is_certain() -> None:
    """FastMCP's, FastAPI's default and a closure over the app can be nobody else's."""
    fast = FastMCP("fast").http_app()
    for app in (fast, FastAPI(), Starlette()):
        assert claim(app.router.lifespan_context, app) is Claim.CERTAIN
        assert claim(combine_lifespans(lifespan_of_nobody, app.router.lifespan_context), app) is Claim.CERTAIN
        assert claim(functools.partial(app.router.lifespan_context), app) is Claim.CERTAIN


def test_a_plain_lifespan_function_is_in_doubt() -> None:
    """It may be run for the parent itself, and the app have a run of its own."""
    assert claim(lifespan_of_sub, SUB) is Claim.DOUBT
    assert claim(functools.partial(lifespan_of_sub), SUB) is Claim.DOUBT


def test_a_lifespan_that_include_router_merged_is_certain() -> None:
    """FastAPI keeps the two lifespans in a closure."""
    sub, app = FastAPI(), FastAPI(lifespan=lifespan_of_nobody)
    app.include_router(sub.router)
    assert claim(app.router.lifespan_context, sub) is Claim.CERTAIN
    assert claim(app.router.lifespan_context, FastAPI()) is Claim.NONE


def test_the_function_behind_a_decorator_is_the_same_lifespan() -> None:
    """Frameworks wrap generator functions in ``@asynccontextmanager`` by themselves."""

    async def generator(app: object) -> AsyncIterator[None]:  # pragma: no cover - it is read, not run
        raise AssertionError
        yield

    sub = Starlette(lifespan=asynccontextmanager(generator))
    assert claim(asynccontextmanager(generator), sub) is Claim.DOUBT
    assert claim(generator, sub) is Claim.DOUBT


def test_the_hooks_of_a_collection_are_read() -> None:
    """A `Lifespan` and a `LifespanMiddleware` hold hooks, and collections in them others."""
    fast = FastMCP("fast").http_app()
    inner = Lifespan(contexts=[fast.lifespan])
    outer = Lifespan()
    outer.include(inner)
    assert claim(outer, fast) is Claim.CERTAIN
    assert claim(LifespanMiddleware(SUB, lifespan=outer), fast) is Claim.CERTAIN
    assert claim(Lifespan(contexts=[lifespan_of_nobody]), fast) is Claim.NONE


def test_the_object_of_a_method_is_held() -> None:
    """A method that is the lifespan of an app claims it by its object."""

    class Service(Router):
        @asynccontextmanager
        async def run(self, app: object) -> AsyncIterator[None]:  # pragma: no cover - it is read, not run
            async with self.lifespan_context(app):
                yield

    service = Service(lifespan=lifespan_of_nobody)
    assert claim(service.run, service) is Claim.DOUBT


def test_a_method_shared_by_two_apps_is_in_doubt() -> None:
    """Each access to a method makes an object of its own, so that identity can't tell."""

    class Service:
        @asynccontextmanager
        async def run(self, app: object) -> AsyncIterator[None]:  # pragma: no cover - it is read, not run
            raise AssertionError
            yield

    service = Service()
    assert claim(service.run, Starlette(lifespan=service.run)) is Claim.DOUBT


def test_what_an_object_keeps_that_is_a_lifespan_is_held() -> None:
    """FastHTML keeps the user's lifespan in one of its own."""

    class Keeps:
        def __init__(self, *lifespans: object) -> None:
            self.lifespans = lifespans

        def __call__(self, app: object) -> object:  # pragma: no cover - it is read, not run
            raise AssertionError

    sub = Starlette()

    def by_hand(app: object) -> object:  # pragma: no cover - it is read, not run
        return sub.router.lifespan_context(sub)

    assert claim(Keeps(lifespan_of_nobody, sub.router.lifespan_context), sub) is Claim.CERTAIN
    assert claim(Keeps(by_hand), sub) is Claim.DOUBT
    assert claim(Keeps(lifespan_of_nobody), sub) is Claim.NONE


def test_defaults_are_held() -> None:
    """Positional ones and those by name."""
    sub = Starlette()

    def positional(app: object, runs: Any = sub) -> object:  # pragma: no cover - it is read, not run
        return runs.router.lifespan_context(app)

    def by_name(app: object, *, runs: Any = sub) -> object:  # pragma: no cover - it is read, not run
        return runs.router.lifespan_context(app)

    assert claim(positional, sub) is Claim.DOUBT
    assert claim(by_name, sub) is Claim.DOUBT
    assert claim(functools.partial(by_name, runs=Starlette()), sub) is Claim.DOUBT


def test_a_variable_that_is_not_set_yet_is_passed_over() -> None:
    """A closure may be read before the line that sets its variable."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return later.router.lifespan_context(app)

    assert claim(lifespan, SUB) is Claim.NONE
    later = SUB
    assert claim(lifespan, SUB) is Claim.DOUBT


@pytest.mark.parametrize(
    "keep",
    [
        lambda app: [app],
        lambda app: (app,),
        lambda app: {app},
        lambda app: frozenset([app]),
        lambda app: {"app": app},
        lambda app: [{"apps": ([app],)}],
        lambda app: functools.partial(print, app),
    ],
    ids=["list", "tuple", "set", "frozenset", "dict", "nested", "partial"],
)
def test_containers_are_looked_into(keep: Callable[[object], Any]) -> None:
    """Where a lifespan runs several apps, they are in a list or the like."""
    kept = keep(SUB)

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return [one.router.lifespan_context(app) for one in kept]

    assert claim(lifespan, SUB) is Claim.DOUBT


def test_a_container_that_holds_itself_ends_the_reading() -> None:
    """Cycles occur."""
    kept: list[object] = [SUB]
    kept.append(kept)

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return kept, lifespan, SUB.router.lifespan_context

    assert claim(lifespan, SUB) is Claim.DOUBT


def test_functions_that_hold_each_other_end_the_reading() -> None:
    """A lifespan whose helper knows it belongs to nobody by that; one decorated by itself is no circle to run in."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return helper(app)

    def helper(app: object) -> object:  # pragma: no cover - it is read, not run
        return lifespan(app)

    def itself(app: object) -> None:  # pragma: no cover - it is read, not run
        raise AssertionError

    itself.__wrapped__ = itself  # type: ignore[attr-defined]
    for one in (lifespan, itself):
        assert Reading(one).claim([], [one]) is Claim.DOUBT
        assert Reading(lifespan_of_nobody).claim([], [one]) is Claim.NONE


def test_a_lifespan_that_answers_to_any_name_is_not_asked() -> None:
    """It would have something that it wraps, and that too, without end."""

    class Answers:
        def __getattr__(self, name: str) -> Any:  # pragma: no cover - nobody shall ask
            return Answers()

        def __call__(self, app: object) -> object:  # pragma: no cover - it is read, not run
            raise AssertionError

    answers: Any = Answers()
    assert claim(answers, Starlette(lifespan=answers)) is Claim.CERTAIN
    assert claim(lifespan_of_nobody, Starlette(lifespan=answers)) is Claim.NONE


def test_a_large_container_is_data() -> None:
    """Nobody keeps a thousand apps, and a cache of a million entries is not read."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return [one.router.lifespan_context(app) for one in kept.values()]

    kept: dict[int, Any] = {index: SUB if index == MOST_ITEMS - 1 else None for index in range(MOST_ITEMS)}
    assert claim(lifespan, SUB) is Claim.DOUBT
    kept[-1] = None
    assert claim(lifespan, SUB) is Claim.NONE


# --- What its code names ---


def test_a_global_that_is_run_is_in_doubt() -> None:
    """The app, or a container of it."""

    def by_name(app: object) -> object:  # pragma: no cover - it is read, not run
        return SUB.router.lifespan_context(app)

    def in_a_container(app: object) -> object:  # pragma: no cover - it is read, not run
        return SUBS["/sub"][0][0].router.lifespan_context(app)

    def fast_way(app: Any) -> object:  # pragma: no cover - it is read, not run
        return SUB.lifespan(app)  # type: ignore[attr-defined]

    for lifespan in (by_name, in_a_container, fast_way):
        assert claim(lifespan, SUB) is Claim.DOUBT
        assert claim(lifespan, Starlette()) is Claim.NONE


def test_a_global_in_a_large_container_is_not_found() -> None:
    """The limit counts for globals too."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return [one.router.lifespan_context(app) for one in MANY]  # type: ignore[attr-defined]

    assert claim(lifespan, SUB) is Claim.NONE


def test_a_global_that_is_only_named_is_not_claimed() -> None:
    """To mount an app is not to run it."""

    def lifespan(app: Any) -> object:  # pragma: no cover - it is read, not run
        app.mount("/sub", SUB)
        return SUBS

    assert claim(lifespan, SUB) is Claim.NONE


def test_a_lifespan_function_that_is_named_is_in_doubt() -> None:
    """Whoever names the very function runs it."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return lifespan_of_sub(app)

    assert claim(lifespan, SUB) is Claim.DOUBT


def test_code_in_inner_functions_counts() -> None:
    """Functions, comprehensions and lambdas inside the lifespan."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        def inner() -> object:  # pragma: no cover - it is read, not run
            return [functools.partial(lambda one: one.router.lifespan_context(app), SUB)]

        return inner()

    assert claim(lifespan, SUB) is Claim.DOUBT


def _helper(app: object) -> object:  # pragma: no cover - it is read, not run
    return _helper_of_helper(app)


def _helper_of_helper(app: object) -> object:  # pragma: no cover - it is read, not run
    return SUB.router.lifespan_context(app)


def test_helper_functions_of_the_same_module_are_read() -> None:
    """However many there are between."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return _helper(app)

    assert claim(lifespan, SUB) is Claim.DOUBT


def test_functions_of_other_modules_are_not_read() -> None:
    """A library's functions name what is theirs; only what is handed to them is the lifespan's."""
    elsewhere = types.FunctionType(_helper_of_helper.__code__, {"SUB": SUB}, "elsewhere")
    here = {"elsewhere": elsewhere}
    source = compile("def lifespan(app):\n    return elsewhere(app)\n", "here", "exec")
    exec(source, here)
    assert claim(here["lifespan"], SUB) is Claim.NONE


def test_an_app_of_another_module_is_found() -> None:
    """``from shop import admin``, and then ``admin.app``."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return HERE.sub.router.lifespan_context(app)

    def of_another(app: object) -> object:  # pragma: no cover - it is read, not run
        return HERE.__name__, app.router.lifespan_context  # type: ignore[attr-defined]

    assert claim(lifespan, SUB) is Claim.DOUBT
    assert claim(of_another, SUB) is Claim.NONE


def test_the_router_and_the_wrapped_app_stand_for_the_app() -> None:
    """A lifespan that runs the router, or the app inside a middleware, runs the app."""
    router = SUB.router

    def by_router(app: object) -> object:  # pragma: no cover - it is read, not run
        return router.lifespan_context(app)

    def by_app(app: object) -> object:  # pragma: no cover - it is read, not run
        return SUB.router.lifespan_context(app)

    assert claim(by_router, SUB) is Claim.DOUBT
    assert claim(by_app, GZipMiddleware(SUB)) is Claim.DOUBT
    assert claim(by_app, LifespanMiddleware(GZipMiddleware(SUB))) is Claim.DOUBT


class NotConfigured:
    """A lazy object, such as Django's settings: whoever looks at its class has it built."""

    @property
    def __class__(self) -> type:  # pragma: no cover - it is read, not run
        raise RuntimeError("settings are not configured")

    @__class__.setter
    def __class__(self, value: type) -> None:  # pragma: no cover - it is read, not run
        raise AssertionError


SETTINGS = NotConfigured()


def test_lazy_objects_that_a_lifespan_names_are_not_touched() -> None:
    """Reading calls nothing of the user's."""

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return SETTINGS, SUB.router.lifespan_context(app)

    assert claim(lifespan, SUB) is Claim.DOUBT


def test_lazy_objects_that_a_lifespan_holds_are_not_touched() -> None:
    """Nor what is in its closure."""
    settings, sub = NotConfigured(), SUB

    def lifespan(app: object) -> object:  # pragma: no cover - it is read, not run
        return settings, sub.router.lifespan_context(app)

    assert claim(lifespan, SUB) is Claim.DOUBT


def test_reading_changes_nothing() -> None:
    """The framework's objects are as they were."""
    app, sub = FastAPI(lifespan=lifespan_of_nobody), FastAPI()
    app.include_router(APIRouter())
    before = dict(vars(app.router)), dict(vars(sub.router))
    claim(app.router.lifespan_context, sub)
    assert (dict(vars(app.router)), dict(vars(sub.router))) == before


@pytest.mark.parametrize(
    "lifespan",
    [None, 42, object(), print, Starlette, lambda: None],
    ids=["None", "number", "object", "builtin", "class", "lambda"],
)
def test_whatever_stands_where_a_lifespan_should_be_can_be_read(lifespan: object) -> None:
    """A lifespan that can't be one is the framework's to refuse."""
    assert claim(lifespan, SUB) is Claim.NONE
