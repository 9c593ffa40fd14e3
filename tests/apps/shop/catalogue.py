"""What customers see: products and orders."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, PositiveInt

from .database import Database, Row

router = APIRouter()


def get_database(request: Request) -> Database:
    """The pool that the shop's lifespan opened."""
    database: Database = request.state.database
    return database


def get_rate(request: Request, currency: str = "EUR") -> float:
    """The exchange rate for the currency that the customer asked for."""
    rates: dict[str, float] = {"EUR": 1.0} | getattr(request.state, "exchange_rates", {})
    if currency not in rates:
        raise HTTPException(422, f"no prices in {currency}, only in {', '.join(sorted(rates))}")
    return rates[currency]


class Order(BaseModel):
    """So many pieces of one product."""

    product: str
    quantity: PositiveInt


@router.get("/products")
async def list_products(
    database: Annotated[Database, Depends(get_database)], rate: Annotated[float, Depends(get_rate)]
) -> list[Row]:
    """All products, with their price and what is in stock."""
    products = await database.run("select name, cents, stock from products order by id")
    return [product | {"cents": round(product["cents"] * rate)} for product in products]


@router.get("/orders")
async def list_orders(database: Annotated[Database, Depends(get_database)]) -> list[Row]:
    """All orders, the oldest first."""
    return await database.run(
        "select orders.id, name as product, quantity "
        "from orders join products on product_id = products.id order by orders.id"
    )


@router.post("/orders", status_code=201)
async def place_order(order: Order, database: Annotated[Database, Depends(get_database)]) -> Row:
    """Take an order, if there is enough in stock."""
    reserved = await database.run(
        "update products set stock = stock - ?1 where name = ?2 and stock >= ?1 returning id, stock",
        order.quantity,
        order.product,
    )
    if not reserved:
        raise HTTPException(409, f"not enough of {order.product!r} in stock")
    product = reserved[0]
    await database.run("insert into orders (product_id, quantity) values (?, ?)", product["id"], order.quantity)
    return {"product": order.product, "quantity": order.quantity, "left": product["stock"]}
