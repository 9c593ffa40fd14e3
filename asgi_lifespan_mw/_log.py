"""The one logger of the package."""

import logging

logger = logging.getLogger("asgi_lifespan_mw")
