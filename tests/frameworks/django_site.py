"""A Django site of one view."""

from typing import Any

from tests.frameworks.versions import needs

django = needs("django", "django")
conf, http, urls = needs("django", "django.conf"), needs("django", "django.http"), needs("django", "django.urls")


async def hello(request: Any) -> Any:
    """A view that answers with the keys of the state that the request sees."""
    return http.JsonResponse(list(request.scope["state"]), safe=False)


urlpatterns = [urls.path("hello", hello)]


def set_up() -> None:
    """Make it the site of this process; whatever needs settings can be imported after that."""
    if not conf.settings.configured:
        conf.settings.configure(
            ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="for tests", STATIC_URL="/static/"
        )
        django.setup()
