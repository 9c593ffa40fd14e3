"""``python -m asgi_lifespan_mw``."""

from ._cli.main import main

if __name__ == "__main__":  # pragma: no branch - it is only run
    raise SystemExit(main())
