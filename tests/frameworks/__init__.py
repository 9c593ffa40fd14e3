"""Tests with the real frameworks, one file for each family.

To add one: its row in `asgi_lifespan_mw/_apps/frameworks.py`, its line in `versions.py` and in the README's table, its
distribution in the extra ``frameworks``, and a test in the file of its family:

    litestar = needs("litestar", "litestar")  # untyped; skips the file where it is not installed

    async def test_a_mounted_app_is_started(witness: Witness) -> None:
        mount = litestar.asgi("/sub", is_mount=True, copy_scope=True)
        app = litestar.Litestar([mount(witness.raw("sub"))], lifespan=[witness.lifespan("app")])
        await witness.sees(app, "app", "sub", state={"/sub/": "sub"})
"""
