"""What the shop says on standard output while it opens and closes."""


def announce(what: str) -> None:
    """Say it at once: whoever reads along shall see it in the order of events."""
    print(f"[shop] {what}", flush=True)
