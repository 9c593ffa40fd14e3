"""What the shop says on standard output while it opens and closes."""


def announce(what: str, who: str = "shop") -> None:
    """Say it at once: whoever reads along shall see it in the order of events."""
    # In one piece with the end of the line, so that several workers don't talk into each other's lines.
    print(f"[{who}] {what}\n", end="", flush=True)
