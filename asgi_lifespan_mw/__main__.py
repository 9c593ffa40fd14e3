"""``python -m asgi_lifespan_mw``."""

import sys

from ._cli import main

if __name__ == "__main__":  # pragma: no branch - it is only run
    sys.exit(main())
