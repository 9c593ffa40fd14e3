"""The engine: tasks, order, time limits and cancellation, without apps and without ASGI."""
