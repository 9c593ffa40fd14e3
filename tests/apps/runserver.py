"""A Django project in one file, for ``python -m django runserver --settings tests.apps.runserver`` with daphne."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from asgi_lifespan_mw import LifespanMiddleware

ALLOWED_HOSTS = ["*"]
ASGI_APPLICATION = "tests.apps.runserver.application"
DEBUG = True
INSTALLED_APPS = ["daphne"]
ROOT_URLCONF = "tests.apps.runserver"
SECRET_KEY = "for the example"


async def rates(request: Any) -> Any:
    """Answer with what a hook yielded."""
    from django.http import JsonResponse

    return JsonResponse(request.scope["state"]["rates"])


@asynccontextmanager
async def exchange_rates(_: object) -> AsyncIterator[dict[str, dict[str, float]]]:
    """Start at the first request."""
    print("started rates")
    yield {"rates": {"GBP": 0.87}}


def __getattr__(name: str) -> Any:
    """Make the application and the URLs when they are asked for: Django is set up after its settings are imported."""
    from django.core.asgi import get_asgi_application
    from django.urls import path

    if name == "application":
        made: Any = LifespanMiddleware(get_asgi_application(), exchange_rates, start_on_request=True)
    elif name == "urlpatterns":
        made = [path("", rates)]
    else:
        raise AttributeError(name)
    globals()[name] = made
    return made
