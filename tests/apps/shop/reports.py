"""Reports for the office: a FastAPI sub-application, mounted on a router that the shop includes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse

from .announcements import announce
from .state import tell_state


class Printer:
    """Sets tables under the shop's letterhead, and counts the pages."""

    def __init__(self) -> None:
        self.pages = 0

    def set_page(self, title: str, lines: list[str]) -> str:
        """One numbered page."""
        self.pages += 1
        return "\n".join([f"Teashop - {title} - page {self.pages}", *lines, ""])


class ReportsState(TypedDict):
    """What ``request.state`` has in the reports, besides the shop's."""

    printer: Printer


@asynccontextmanager
async def open_printer(app: FastAPI) -> AsyncIterator[ReportsState]:
    """Switch the printer on."""
    announce("started reports")
    yield {"printer": Printer()}
    announce("stopped reports")


def create_office() -> APIRouter:
    """The office's router.

    A mount gets the prefix that the router is included with; a ``prefix`` of the router itself goes to its
    routes and not to its mounts.
    """
    reports = FastAPI(title="Reports", lifespan=open_printer)

    @reports.get("/stock", response_class=PlainTextResponse)
    async def stock(request: Request) -> str:
        """What is in stock, as a page to print."""
        rows = await request.state.database.run("select name, stock from products order by name")
        page: str = request.state.printer.set_page("stock", [f"{row['stock']:>5} {row['name']}" for row in rows])
        return page

    reports.add_api_websocket_route("/state", tell_state)
    office = APIRouter()
    office.mount("/reports", reports)
    return office
