"""The tests of asgi_lifespan_mw."""
