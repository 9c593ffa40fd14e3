"""Django with the handler of django-asgi-lifespan, which takes the lifespan."""

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.frameworks import django_site
from tests.frameworks.nested import ASYNCIO, Witness
from tests.frameworks.versions import needs

django_site.set_up()
handler = needs("django-asgi-lifespan", "django_asgi_lifespan.asgi")
signals = needs("django-asgi-lifespan", "django_asgi_lifespan.signals")

pytestmark = ASYNCIO


@pytest.fixture
def site(witness: Witness) -> Iterator[Any]:
    """A site that records its lifespan, as a receiver of the signal."""

    async def receiver(**_: object) -> Any:
        return lambda: witness.lifespan("site")(None)

    signals.asgi_lifespan.connect(receiver)
    yield handler.get_asgi_application()
    signals.asgi_lifespan.disconnect(receiver)


async def test_hooks_run_around_the_site(witness: Witness, site: Any) -> None:
    """Its views see the state of both."""
    await witness.sees(site, "hook", "site", state={"/hello": "site"}, lifespan=witness.lifespan("hook"))


async def test_a_mounted_site_is_started_in_the_order_of_the_routes(witness: Witness, site: Any) -> None:
    """As any mount, once, though it stands there twice."""
    routes = [Mount("/sub", witness.starlette("sub")), Mount("/again", site), Mount("", site)]
    app = Starlette(lifespan=witness.lifespan("parent"), routes=routes)
    await witness.sees(app, "parent", "sub", "site", state={"/hello": "site", "/sub/state": "sub"})
