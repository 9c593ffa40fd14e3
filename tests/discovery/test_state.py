"""Lifespan state: whose requests see what, and two units that set the same key."""

import pickle
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount

from asgi_lifespan_mw import Isolated, Lifespan, LifespanManager, LifespanMiddleware, StateCollision
from asgi_lifespan_mw._apps.state import SharedState
from tests.server import RecordingServer, request


class Keeps:
    """An app that sets state in its lifespan, and keeps the state that it saw then and in its requests."""

    def __init__(self, **sets: object) -> None:
        self.sets = sets
        self.at_startup: dict[str, object] = {}
        self.at_requests: list[dict[str, object]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self.at_requests.append(scope.get("state"))
            return
        await receive()
        self.at_startup = dict(scope["state"])
        scope["state"].update(self.sets)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    @property
    def last_state(self) -> dict[str, object]:
        """The state of the last request."""
        return self.at_requests[-1]


def sets(**state: object) -> Callable[[Any], AbstractAsyncContextManager[dict[str, object]]]:
    """Make a lifespan that sets state."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, object]]:
        yield state

    return lifespan


def parent(*routes: BaseRoute, **state: object) -> Starlette:
    """An app with mounts that sets state."""
    return Starlette(lifespan=sets(**state), routes=routes)


# What is seen.


async def test_state_of_hooks_is_there_when_the_wrapped_app_starts() -> None:
    """It is filled into the server's own dict, which the wrapped app is given."""
    app = Keeps(app=1)
    server = RecordingServer(state={"server": 0})
    await server.run(LifespanMiddleware(app, [Lifespan(contexts=[sets(a=1)]), sets(b=2)]))
    assert app.at_startup == {"server": 0, "a": 1, "b": 2}
    assert server.state == {"server": 0, "a": 1, "b": 2, "app": 1}


async def test_the_wrapped_app_is_given_the_servers_dict_itself() -> None:
    """Some apps keep it, and set things later."""
    given: list[object] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        given.append(scope["state"])
        await Keeps()(scope, receive, send)

    server = RecordingServer()
    state = server.state
    await server.run(LifespanMiddleware(app))
    assert given[0] is state


async def test_a_mount_sees_a_copy_of_what_its_parents_set_and_nothing_of_its_siblings() -> None:
    """What it adds reaches the server, and so the requests."""
    inner, first, second = Keeps(inner=1), Keeps(first=2), Keeps(second=3)
    outer = parent(Mount("/inner", inner), outer=0)
    app = LifespanMiddleware(
        parent(Mount("/outer", outer), Mount("/1", first), Mount("/2", second), root=9), sets(hook=8)
    )
    server = RecordingServer()
    await server.run(app)
    assert inner.at_startup == {"hook": 8, "root": 9, "outer": 0}
    assert first.at_startup == second.at_startup == {"hook": 8, "root": 9}
    assert server.state == {"hook": 8, "root": 9, "outer": 0, "inner": 1, "first": 2, "second": 3}


async def test_siblings_that_start_side_by_side_do_not_see_each_other_either() -> None:
    """`concurrent=True` changes nothing about state."""
    first, second = Keeps(first=2), Keeps(second=3)
    server = RecordingServer()
    await server.run(LifespanMiddleware(parent(Mount("/1", first), Mount("/2", second), root=9), concurrent=True))
    assert first.at_startup == second.at_startup == {"root": 9}
    assert server.state == {"root": 9, "first": 2, "second": 3}


async def test_state_is_not_read_at_shutdown() -> None:
    """Granian empties the dict before it says that it is time."""
    server = RecordingServer()

    async def clears_state() -> Any:
        message = await RecordingServer.receive(server)
        if message["type"] == "lifespan.shutdown":
            server.state.clear()
        return message

    app = LifespanMiddleware(parent(Mount("/1", Keeps(key=1)), Mount("/2", Isolated(Keeps(key=2)))), sets(hook=3))
    await app(server.scope, clears_state, server.send)
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert server.state == {}


@pytest.mark.parametrize("missing", [["state"], ["asgi"], ["state", "asgi"]], ids=" and ".join)
async def test_a_scope_may_lack_state_and_asgi(missing: list[str]) -> None:
    """The apps get both all the same."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await Keeps()(scope, receive, send)

    server = RecordingServer()
    for key in missing:
        del server.scope[key]
    await server.run(LifespanMiddleware(app, sets(key="value")))
    assert server.answers == ["startup.complete", "shutdown.complete"]
    assert scopes[0]["state"] == {"key": "value"}
    assert scopes[0]["asgi"]["version"] == "3.0"
    for key in missing:
        assert key not in server.scope


async def test_requests_get_a_shallow_copy_of_the_state_where_the_server_has_none() -> None:
    """The objects are the same, the dict is each request's own."""
    pool = object()
    app = Keeps(pool=pool)
    server = RecordingServer()
    del server.scope["state"]
    middleware = LifespanMiddleware(app)

    async def requests_twice() -> Any:
        message = await RecordingServer.receive(server)
        if message["type"] == "lifespan.shutdown":
            await request(middleware)
            app.last_state["mine"] = 1
            await request(middleware)
        return message

    await middleware(server.scope, requests_twice, server.send)
    first, second = app.at_requests
    assert first == {"pool": pool, "mine": 1}
    assert second == {"pool": pool}
    assert second["pool"] is pool
    await request(middleware)
    assert app.last_state is None


async def test_state_of_the_server_is_left_alone_in_requests() -> None:
    """A server that has state gives it to the requests by itself."""
    app = Keeps(pool=1)
    async with LifespanManager(LifespanMiddleware(app)) as manager:
        await request(manager.app, state={"pool": 2})
        assert app.last_state == {"pool": 2}
        await request(manager.app)
        assert app.last_state == {"pool": 1}


# Collisions.

ONE, OTHER = object(), object()


async def collision_of(app: LifespanMiddleware) -> str:
    """Start an app whose state collides; what the server is told of it."""
    server = RecordingServer()
    with pytest.raises(StateCollision) as caught:
        await server.run(app)
    (answer,) = server.sent
    assert answer["type"] == "lifespan.startup.failed"
    assert str(caught.value) in answer["message"]
    assert caught.value.key == "db"
    assert caught.value.first in str(caught.value)
    assert caught.value.second in str(caught.value)
    return f"{caught.value.first} / {caught.value.second} / {caught.value.advice}"


def colliding() -> dict[str, tuple[LifespanMiddleware, str]]:
    """Each pair of units that can set the same key."""
    one, other = sets(db=ONE), sets(db=OTHER)
    hook = r"hook 'lifespan' \(tests.discovery.test_state\.py:\d+\)"
    rename, isolate = "rename one of them", r"rename it, or wrap the mounted app in Isolated\(app\)"
    app = Keeps(db=OTHER)
    return {
        "hook and hook": (LifespanMiddleware(Keeps(), [one, other]), rf"^{hook} / {hook} / {rename}"),
        "hook and app": (LifespanMiddleware(app, one), rf"^{hook} / app Keeps / {rename}"),
        "hook and Starlette app": (LifespanMiddleware(parent(db=OTHER), one), rf"^{hook} / app Starlette / {rename}"),
        "hook and mount": (LifespanMiddleware(parent(Mount("/a", app)), one), rf"^{hook} / mount '/a' / {isolate}"),
        "app and mount": (
            LifespanMiddleware(parent(Mount("/a", app), db=ONE)),
            rf"^app Starlette / mount '/a' / {isolate}",
        ),
        "mount and mount": (
            LifespanMiddleware(parent(Mount("/a", Keeps(db=ONE)), Mount("/b", app))),
            rf"^mount '/a' / mount '/b' / {isolate}",
        ),
        "mount and the mount in it": (
            LifespanMiddleware(parent(Mount("/a", parent(Mount("/b", app), db=ONE)))),
            rf"^mount '/a' / mount '/a/b' / {isolate}",
        ),
        "mount and mount side by side": (
            LifespanMiddleware(parent(Mount("/a", Keeps(db=ONE)), Mount("/b", app)), concurrent=True),
            rf"^mount '/a' / mount '/b' / {isolate}",
        ),
    }


@pytest.mark.parametrize("pair", colliding())
async def test_a_key_set_twice_to_different_objects_is_a_collision(pair: str) -> None:
    """Startup fails; the message names both units and the key, and Isolated where that helps."""
    app, expected = colliding()[pair]
    told = await collision_of(app)
    assert re.match(expected, told), told


async def test_a_key_that_the_server_has_may_be_set_anew() -> None:
    """The server is no unit: Starlette's TestClient has the state of its last run, and is entered again."""
    server = RecordingServer(state={"db": ONE})
    await server.run(LifespanMiddleware(Keeps(), sets(db=OTHER)))
    assert server.state == {"db": OTHER}


async def test_a_failed_startup_leaves_the_servers_state_as_it_was() -> None:
    """A server that tries again finds what it had."""

    def fails() -> None:
        raise ValueError

    server = RecordingServer(state={"db": ONE, "own": 1})
    with pytest.raises(ValueError):
        await server.run(LifespanMiddleware(Keeps(other=2), sets(db=OTHER), on_startup=[fails]))
    assert server.state == {"db": ONE, "own": 1}


async def test_a_collision_stops_what_had_started() -> None:
    """It is a failed startup like any other."""
    log: list[str] = []

    async def lives() -> AsyncIterator[dict[str, object]]:
        log.append("up")
        yield {"db": ONE}
        log.append("down")

    with pytest.raises(StateCollision):
        await RecordingServer().run(LifespanMiddleware(Keeps(), [lives, sets(db=OTHER)]))
    assert log == ["up", "down"]


async def test_the_same_object_under_the_same_key_is_no_collision() -> None:
    """Units that share something may all say so."""
    server = RecordingServer(state={"db": ONE})
    routes = [Mount("/a", parent(Mount("/b", Keeps(db=ONE)), db=ONE)), Mount("/c", Keeps(db=ONE))]
    await server.run(LifespanMiddleware(parent(*routes, db=ONE), [sets(db=ONE), sets(db=ONE)]))
    assert server.state == {"db": ONE}


async def test_a_run_after_another_one_may_set_the_same_keys() -> None:
    """What an earlier run set is nobody's in the next one."""
    app = LifespanMiddleware(parent(Mount("/a", Keeps(db=ONE)), app=2), sets(hook=OTHER))
    for _ in range(2):
        server = RecordingServer()
        await server.run(app)
        assert server.state == {"hook": OTHER, "app": 2, "db": ONE}


async def test_hooks_of_a_frameworks_own_lifespan_collide_too() -> None:
    """`Starlette(lifespan=hooks)` keeps the same rules."""
    with pytest.raises(StateCollision, match="state key 'db' was set by hook"):
        async with Lifespan(contexts=[sets(db=ONE), sets(db=OTHER)])(None):
            ...


# Isolated.


async def test_only_requests_to_an_isolated_app_see_its_state() -> None:
    """Two mounts set the same key, and each finds its own; elsewhere there is neither."""
    admin, shop, rest = Keeps(db=ONE), Keeps(db=OTHER), Keeps()
    routes = [Mount("/admin", Isolated(admin)), Mount("/shop", Isolated(shop)), Mount("/", rest)]
    async with LifespanManager(LifespanMiddleware(parent(*routes, shared=1))) as manager:
        assert manager.state == {"shared": 1}
        for path in ("/admin/", "/shop/", "/"):
            await request(manager.app, path)
        assert admin.last_state == {"shared": 1, "db": ONE}
        assert shop.last_state == {"shared": 1, "db": OTHER}
        assert rest.last_state == {"shared": 1}


async def test_an_isolated_app_may_set_a_key_that_a_parent_set() -> None:
    """So the advice of the collision between the two is sound."""
    admin, rest = Keeps(db=OTHER), Keeps()
    app = LifespanMiddleware(parent(Mount("/admin", Isolated(admin)), Mount("/", rest), db=ONE))
    async with LifespanManager(app) as manager:
        await request(manager.app, "/admin/")
        await request(manager.app, "/")
        assert admin.last_state == {"db": OTHER}
        assert rest.last_state == {"db": ONE}


async def test_an_isolated_app_may_set_a_key_that_a_sibling_sets_later() -> None:
    """It never shows in the shared state, in whichever order they start."""
    admin, rest = Keeps(db=OTHER), Keeps(db=ONE)
    app = LifespanMiddleware(parent(Mount("/admin", Isolated(admin)), Mount("/", rest)))
    async with LifespanManager(app) as manager:
        await request(manager.app, "/admin/")
        assert admin.last_state == {"db": OTHER}
        assert manager.state == {"db": ONE}


async def test_what_is_mounted_in_an_isolated_app_shares_its_state() -> None:
    """It sees it at its startup, and adds to it."""
    inner = Keeps(inner=2)
    admin = parent(Mount("/inner", inner), db=ONE)
    async with LifespanManager(LifespanMiddleware(parent(Mount("/admin", Isolated(admin))))) as manager:
        assert inner.at_startup == {"db": ONE}
        await request(manager.app, "/admin/inner/")
        assert inner.last_state == {"db": ONE, "inner": 2}
        assert manager.state == {}


async def test_what_is_mounted_in_an_isolated_app_can_collide_with_it() -> None:
    """Inside, the same rules hold; the message names Isolated."""
    admin = parent(Mount("/inner", Keeps(db=OTHER)), db=ONE)
    told = await collision_of(LifespanMiddleware(parent(Mount("/admin", Isolated(admin)))))
    assert told.startswith("mount '/admin' / mount '/admin/inner' / ")
    assert "Isolated(app)" in told


async def test_isolated_apps_nest() -> None:
    """The inner one sees the outer one's state, not the other way round."""
    inner, rest = Keeps(inner=2), Keeps()
    admin = parent(Mount("/inner", Isolated(inner)), Mount("/", rest), db=ONE)
    async with LifespanManager(LifespanMiddleware(parent(Mount("/admin", Isolated(admin))))) as manager:
        await request(manager.app, "/admin/inner/")
        await request(manager.app, "/admin/")
        assert inner.last_state == {"db": ONE, "inner": 2}
        assert rest.last_state == {"db": ONE}


async def test_a_request_sees_what_middleware_put_into_its_state() -> None:
    """Isolated adds what its app set, and nothing else: a request's own value under a parent's key stays."""
    admin = Keeps(db=ONE)
    async with LifespanManager(LifespanMiddleware(parent(Mount("/admin", Isolated(admin)), user="nobody"))) as manager:
        await request(manager.app, "/admin/", state={"user": "ann", "request_id": 7})
        assert admin.last_state == {"user": "ann", "request_id": 7, "db": ONE}


async def test_requests_to_an_isolated_app_get_a_copy_of_its_state() -> None:
    """What one request changes, the next one does not see, and neither does the caller's scope."""
    admin = Keeps(db=ONE)
    state: dict[str, object] = {"mine": 1}
    async with LifespanManager(LifespanMiddleware(parent(Mount("/admin", Isolated(admin))))) as manager:
        await request(manager.app, "/admin/", state=state)
        admin.last_state["changed"] = True
        await request(manager.app, "/admin/")
        assert admin.last_state == {"db": ONE}
        assert state == {"mine": 1}


async def test_an_isolated_apps_state_is_gone_after_the_run_and_new_in_the_next() -> None:
    """Nothing is carried over from one run to another."""
    admin = Keeps(db=ONE)
    isolated = Isolated(admin)
    app = LifespanMiddleware(parent(Mount("/admin", isolated)))
    async with LifespanManager(app) as manager:
        assert [state for _, state in isolated.states] == [{"db": ONE}]
    assert isolated.states == []
    await request(manager.app, "/admin/")
    assert admin.last_state == {}
    admin.sets = {"db": OTHER}
    async with LifespanManager(app) as manager:
        await request(manager.app, "/admin/")
        assert admin.last_state == {"db": OTHER}


async def test_an_isolated_apps_state_is_gone_after_a_failed_startup() -> None:
    """What follows it fails; requests, if any come, see nothing of the run."""

    def fails(app: object) -> None:
        raise ValueError

    isolated = Isolated(Keeps(db=ONE))
    routes = [Mount("/admin", isolated), Mount("/other", Starlette(lifespan=Lifespan(on_startup=[fails])))]
    with pytest.raises(ValueError):
        await RecordingServer().run(LifespanMiddleware(parent(*routes)))
    assert isolated.states == []


async def test_an_app_mounted_bare_twice_beside_an_isolated_one_is_none_of_its_business() -> None:
    """Only an `Isolated` around the same app shares the state."""
    plain, isolated = Keeps(shared=ONE), Isolated(Keeps(db=ONE))
    app = LifespanMiddleware(parent(Mount("/own", isolated), Mount("/a", plain), Mount("/b", plain)))
    async with LifespanManager(app) as manager:
        await request(manager.app, "/b/")
    assert plain.last_state == {"shared": ONE}


async def test_an_app_that_is_isolated_twice_finds_its_state_through_both() -> None:
    """It is started once, and all requests to it are its own, wherever it is mounted."""
    admin = Keeps(db=ONE)
    routes = [Mount("/a", Isolated(admin)), Mount("/b", Isolated(admin))]
    async with LifespanManager(LifespanMiddleware(parent(*routes))) as manager:
        await request(manager.app, "/a/")
        await request(manager.app, "/b/")
        assert admin.at_requests == [{"db": ONE}, {"db": ONE}]
        assert manager.state == {}


async def test_an_isolated_app_alone_is_the_app() -> None:
    """Without anything around it that starts mounts, it passes all on."""
    admin = Keeps(db=ONE)
    isolated = Isolated(admin)
    assert repr(isolated) == f"Isolated({admin!r})"
    async with LifespanManager(isolated) as manager:
        assert manager.state == {"db": ONE}
        await request(manager.app)
        assert admin.last_state == {"db": ONE}


async def test_a_wrapped_isolated_app_shares_the_servers_state() -> None:
    """All requests are its own."""
    app = Keeps(db=ONE)
    async with LifespanManager(LifespanMiddleware(Isolated(app), sets(hook=1))) as manager:
        assert manager.state == {"hook": 1, "db": ONE}
        await request(manager.app)
        assert app.last_state == {"hook": 1, "db": ONE}


@pytest.mark.parametrize(
    "value", ["text " * 9, b"bytes " * 9, 10**20, 1e300, True, None], ids=lambda value: type(value).__name__
)
def test_equal_values_of_plain_types_do_not_collide(value: Any) -> None:
    """Python keeps some of them once and some not."""
    shared = SharedState({})
    shared.add("first", {}, {"key": value})
    shared.add("second", {}, {"key": pickle.loads(pickle.dumps(value))})
    assert shared.state == {"key": value}


@pytest.mark.parametrize("other", ["other", 1.0, [1]], ids=repr)
def test_other_values_collide(other: object) -> None:
    """So do equal values of different types, and equal lists, which somebody may change."""
    shared = SharedState({})
    shared.add("first", {}, {"key": [1] if isinstance(other, list) else 1})
    with pytest.raises(StateCollision):
        shared.add("second", {}, {"key": other})
