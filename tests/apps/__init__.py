"""Applications for the tests to serve.

``shop`` is the example that the README shows. Beside it are examples of integrations, to copy: ``channels_hooks``,
``django_hooks``, ``events``, ``litestar_mount``, ``plain_starlette`` and ``quart_hooks``. The others have
faults, or ways of their own, that only the tests need.
"""
