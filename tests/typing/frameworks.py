"""Wrapping the apps of frameworks: each passes as it is, without a cast, and so does what a middleware makes of it.

Django and Channels are untyped, and BlackSheep and Sanic say nothing of an app's call; their apps pass all the same.
"""

from blacksheep import Application
from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.core.asgi import get_asgi_application  # pyright: ignore[reportMissingTypeStubs] - Django is untyped
from falcon.asgi import App
from fastapi import FastAPI
from litestar import Litestar
from quart import Quart
from sanic import Sanic
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware

from asgi_lifespan_mw import Isolated, LifespanMiddleware

fastapi = LifespanMiddleware(FastAPI())
starlette = LifespanMiddleware(Starlette())
litestar = LifespanMiddleware(Litestar())
quart = LifespanMiddleware(Quart(__name__))
django = LifespanMiddleware(get_asgi_application())
channels = LifespanMiddleware(
    ProtocolTypeRouter(
        {
            "http": get_asgi_application(),
            "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter([]))),
        }
    )
)
falcon = LifespanMiddleware(App())
blacksheep = LifespanMiddleware(Application())
sanic = LifespanMiddleware(Sanic("shop"))

# A middleware inside, outside, and ours in ours.
inside = LifespanMiddleware(GZipMiddleware(FastAPI()))
outside = GZipMiddleware(LifespanMiddleware(FastAPI()))
nested = LifespanMiddleware(LifespanMiddleware(Starlette()))

# Mounted.
site = Starlette()
site.mount("/fastapi", fastapi)
site.mount("/falcon", Isolated(App()))
site.mount("/quart", Isolated(quart))
chosen = LifespanMiddleware(site, mounts=[fastapi, Quart(__name__)], exclude=[litestar, FastAPI()])
