"""Requests per second of a FastAPI app under uvicorn, bare and wrapped, by clients that keep their connections.

Two servers run throughout, and take turns. "bare again" is a second server of the bare app: what lies between it and
the first is noise.
"""

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONNECTIONS = 16
ROUNDS = 9
SECONDS = 2.0
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SERVERS = {"bare": "bare", "wrapped": "wrapped", "bare again": "bare"}


@contextmanager
def uvicorn(app: str) -> Iterator[int]:
    """Serve an app of ``served.py``; gives the port."""
    # Not `--fd`: uvicorn takes it for a Unix socket, and Nagle's algorithm then holds answers back.
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", f"served:{app}", "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen([*command, "--no-access-log"], cwd=Path(__file__).parent)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


async def is_up(port: int) -> None:
    """Wait until a server accepts connections, for ten seconds at the most."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                return writer.close()


async def client(port: int, until: float) -> int:
    """Send one request after the other, and count the answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = 0
    while time.perf_counter() < until:
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        answers += 1
    writer.close()
    return answers


async def rate(port: int, seconds: float) -> float:
    """Requests per second."""
    until = time.perf_counter() + seconds
    return sum(await asyncio.gather(*(client(port, until) for _ in range(CONNECTIONS)))) / seconds


def measure(rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, list[float]]:
    """Requests per second of each server in each round."""
    results: dict[str, list[float]] = {name: [] for name in SERVERS}
    with ExitStack() as stack:
        ports = {name: stack.enter_context(uvicorn(app)) for name, app in SERVERS.items()}
        for port in ports.values():
            asyncio.run(is_up(port))
            asyncio.run(rate(port, seconds / 2))
        for _ in range(rounds):
            for name, port in ports.items():
                results[name].append(asyncio.run(rate(port, seconds)))
    return results


def table(results: dict[str, list[float]]) -> str:
    """The results as a table in Markdown."""
    lines = ["| app | requests per second | of the bare app's in the same round | quartiles |", "|---|--:|--:|--:|"]
    for name, rates in results.items():
        ratios = [one / bare for one, bare in zip(rates, results["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(f"| {name} | {statistics.median(rates):.0f} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
