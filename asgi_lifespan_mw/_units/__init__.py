"""The engine: tasks, order, time limits and cancellation. Nothing here knows an app or ASGI."""
