"""Django with hooks: Django has no lifespan, so the middleware around it is what gives it one.

Serve it with ``uvicorn tests.apps.django_hooks:app``.
"""

from collections.abc import AsyncIterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.handlers.asgi import ASGIRequest
from django.http import JsonResponse
from django.urls import path

from asgi_lifespan_mw import LifespanMiddleware


async def rates(request: ASGIRequest) -> JsonResponse:
    """What a hook yielded is in the request's scope."""
    return JsonResponse(request.scope["state"]["rates"])


urlpatterns = [path("", rates)]

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for the example")
django.setup()

app = LifespanMiddleware(get_asgi_application())


@app.context
async def exchange_rates() -> AsyncIterator[dict[str, dict[str, float]]]:
    """Before the first request, and after the last."""
    print("started rates")
    yield {"rates": {"GBP": 0.87}}
    print("stopped rates")


@app.on_startup
def warm_up() -> None:
    """A plain function, after the context."""
    print("warmed up")


@app.on_shutdown
def say_goodbye() -> None:
    """Before the context is left."""
    print("said goodbye")
