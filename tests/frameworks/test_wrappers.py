"""Middleware that wraps an app: the lifespan passes through it, once."""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount

from tests.frameworks.nested import Witness
from tests.frameworks.versions import needs

Wrap = Callable[[Any], Any]


def correlation_id(app: Any) -> Any:
    """Keeps the app in ``.app``."""
    return needs("asgi-correlation-id", "asgi_correlation_id").CorrelationIdMiddleware(app)


def msgpack(app: Any) -> Any:
    """Keeps the app in ``._app``."""
    return needs("msgpack-asgi", "msgpack_asgi").MessagePackMiddleware(app)


def csrf(app: Any) -> Any:
    """A decorator, which keeps the app in ``__wrapped__``."""
    return needs("asgi-csrf", "asgi_csrf").asgi_csrf(app, signing_secret="for tests")


def servestatic(app: Any) -> Any:
    """Keeps the app in ``.application``."""
    return needs("servestatic", "servestatic").ServeStaticASGI(app)


def lifespan_middleware(app: Any) -> Any:
    """Keeps the app in ``._app``, and runs a lifespan of its own around the app's."""
    nothing = contextlib.asynccontextmanager(_nothing)
    return needs("asgi-lifespan-middleware", "asgi_lifespan_middleware").LifespanMiddleware(app, lifespan=nothing)


async def _nothing(app: object) -> AsyncIterator[None]:
    yield


def user_agents(app: Any) -> Any:
    """Keeps the app in ``._app``."""
    return needs("asgi-user-agents", "asgi_user_agents").UAMiddleware(app)


def blacknoise(app: Any) -> Any:
    """Keeps the app in ``._application``, and falls at the lifespan."""
    return needs("blacknoise", "blacknoise").BlackNoise(app)


def elastic_apm(app: Any) -> Any:
    """Keeps the app in ``._app``."""
    asgi = needs("elastic-apm", "elasticapm.contrib.asgi")
    return asgi.ASGITracingMiddleware(app, enabled=False, service_name="tests")


WRAPPERS = [
    lambda app: BaseHTTPMiddleware(app, lambda request, call_next: call_next(request)),
    CORSMiddleware,
    GZipMiddleware,
    TrustedHostMiddleware,
    correlation_id,
    msgpack,
    csrf,
    servestatic,
    lifespan_middleware,
    user_agents,
    blacknoise,
    elastic_apm,
]

pytestmark = pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__.replace("<lambda>", "base-http"))


async def test_an_app_in_a_wrapper_is_started_once(witness: Witness, wrap: Wrap) -> None:
    """So are the mounts in it, although the app is mounted bare as well."""
    sub = witness.starlette("sub", Mount("/inner", witness.raw("inner")))
    app = Starlette(lifespan=witness.lifespan("app"), routes=[Mount("/wrapped", wrap(sub)), Mount("/bare", sub)])
    await witness.sees(app, "app", "sub", "inner", state={"/wrapped/inner/": "inner", "/bare/state": "sub"})


async def test_the_wrapped_app_may_be_in_a_wrapper(witness: Witness, wrap: Wrap) -> None:
    """The mounts of the app inside are found."""
    app = witness.starlette("app", Mount("/sub", witness.raw("sub")))
    await witness.sees(wrap(app), "app", "sub", state={"/sub/": "sub"})
