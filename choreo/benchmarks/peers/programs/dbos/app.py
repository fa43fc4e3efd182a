"""DBOS as its own starter has it: FastAPI and workflows in one process, transactions on a datasource."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import shop
from dbos import DBOS, SetWorkflowID, SQLAlchemyDatasource
from fastapi import FastAPI
from fastapi.responses import JSONResponse

database_url = shop.DATABASE_URL.replace("postgresql:", "postgresql+psycopg:")
DBOS(
    config={
        "name": "shop",
        "system_database_url": database_url,
        "max_executor_threads": shop.CONNECTIONS,
        "log_level": "WARNING",
    }
)
db = SQLAlchemyDatasource.create(database_url, engine_kwargs={"pool_size": shop.CONNECTIONS})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    DBOS.launch()
    try:
        yield
    finally:
        DBOS.destroy()


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
def place_order(order: shop.Placed) -> JSONResponse:
    with SetWorkflowID(order["id"]):  # the same request again is the same workflow
        DBOS.start_workflow(fulfil, order)
    return shop.accepted(order)


@DBOS.workflow()
def fulfil(order: shop.Order) -> None:
    store(order)
    decided = pay(order)
    settle(decided)
    notify(decided)


# Each exactly once: its checkpoint is written in its own transaction. Read committed, as everybody's here: by
# default it is serializable, and most of the work under load is done again.

transaction = db.transaction(isolation_level="READ COMMITTED")


@transaction
def store(order: shop.Order) -> None:
    execute(shop.STORE_ORDER, order)


@transaction
def pay(order: shop.Order) -> shop.Decided:
    return shop.decided(order, execute(shop.PAY, order).one())


@transaction
def settle(decided: shop.Decided) -> None:
    execute(shop.SETTLE, decided)


@transaction
def notify(decided: shop.Decided) -> None:
    execute(shop.NOTIFY, decided)


def execute(statement: str, values: Any) -> Any:
    return db.sql_session().connection().exec_driver_sql(statement, dict(values))
