"""The shop with the middleware or the hooks inside of it, served."""

import json
import signal
from pathlib import Path

import pytest

from tests.servers.harness import UVICORN, Server
from tests.servers.units import UNITS, started, stopped

pytestmark = pytest.mark.servers

#: ``FastAPI(lifespan=hooks)``, and ``add_middleware(LifespanMiddleware, lifespan=hooks)``.
PLACES = ["as_lifespan", "as_middleware"]


@pytest.mark.parametrize("place", PLACES)
def test_state_reaches_requests_in_the_shop_and_its_mounts(place: str, tmp_path: Path) -> None:
    """The hook's state, the shop's and each mount's are found where they are used."""
    with Server(UVICORN, f"tests.apps.inside:{place}", tmp_path / "shop.db") as shop:
        assert shop.request("GET", "/products", params={"currency": "GBP"}).json()[0]["cents"] == 6800
        assert shop.request("GET", "/admin/").json() == {"waiting": 0, "delivered": 0}
        assert shop.request("GET", "/admin/metrics/").json() == {"views": 1, "deliveries": 0, "sold": {}}
        assert shop.request("GET", "/office/reports/stock").text.startswith("Teashop - stock - page 1\n")
        assert json.loads(shop.exchange("/admin/metrics/state", "warehouse")) == {"warehouse": "Warehouse"}


@pytest.mark.parametrize("place", PLACES)
def test_everything_is_started_and_stopped_once_in_order(place: str, tmp_path: Path) -> None:
    """The hooks come first, then the shop, then each mount; nothing is started a second time."""
    with Server(UVICORN, f"tests.apps.inside:{place}", tmp_path / "shop.db") as shop:
        assert shop.url
        shop.wait_for_announcements(started(UNITS))

        shop.signal(signal.SIGINT)

        assert shop.wait() == 0
        assert shop.announcements == started(UNITS) + stopped(UNITS)
        assert "Traceback" not in shop.stderr, str(shop)
