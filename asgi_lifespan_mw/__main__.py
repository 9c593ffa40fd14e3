"""``python -m asgi_lifespan_mw``."""

import sys

from ._cli import main

if __name__ == "__main__":
    sys.exit(main())
