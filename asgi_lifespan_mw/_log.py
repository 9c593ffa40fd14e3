"""The one logger of the package."""

import logging
from contextlib import suppress
from typing import Any, final


@final
class _Logger(logging.LoggerAdapter[logging.Logger]):
    """Passes records on; what a handler of the user's raises does not reach the code that logs."""

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        with suppress(Exception):
            super().log(level, msg, *args, stacklevel=2, **options)  # the line that logs, not this one


logger = _Logger(logging.getLogger("asgi_lifespan_mw"))
