"""HTTP in, command out; and the orders, read from their table."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import Row
from starlette.responses import Response, StreamingResponse

from choreo.chassis.http import stream
from choreo.chassis.http.answer import Answer
from choreo.chassis.http.body import Body
from choreo.chassis.http.money import Amount, Money
from choreo.chassis.http.pages import Page
from choreo.chassis.http.problems import Problem, not_found
from choreo.chassis.http.routes import (
    KeyedCause,
    LastEventId,
    Paging,
    PreferredWait,
    Router,
    User,
    Wait,
    example,
    problem,
    with_headers,
)
from choreo.chassis.http.stream import Story, event_stream
from choreo.chassis.runtime import Runtime
from choreo.chassis.transaction.inputs import Decided
from choreo.message.envelope import derived_id
from order_service import queries
from order_service.admission import Admission
from order_service.commands import AlreadyOver, CancelOrder, NoSuchOrder, PlaceOrder
from order_service.state import Change, Order, Orders, Status


class NewOrder(Body):
    model_config = example(price="300.00", description="one violin")

    price: Amount
    description: Annotated[str, Field(max_length=500)] | None = None


class OrderView(BaseModel):
    model_config = example(
        id="c30bb1d6-7f25-54d9-a38b-5e4f1a498f84",
        user_id="b7841663-98cb-5009-999d-5734b6136895",
        price="300.00",
        description="one violin",
        status="refunded",
        reason="by_user",
        created_at="2026-11-23T12:00:05.000000Z",
        updated_at="2026-11-23T12:00:12.000000Z",
    )

    id: UUID
    user_id: UUID
    price: Money
    description: str | None
    status: Status
    reason: str | None
    created_at: datetime
    updated_at: datetime


def router(runtime: Runtime[Orders], admission: Admission) -> Router:
    routes = Router()

    @routes.post(
        "/orders",
        status_code=202,
        response_model=OrderView,
        responses={
            201: {
                "description": "decided while the client waited",
                "model": OrderView,
                **with_headers("Location"),
            },
            202: with_headers("Location"),
        },
    )
    async def place(user: User, cause: KeyedCause, order: NewOrder, wait: PreferredWait) -> Answer:
        """Takes the order. Whether it is paid is decided elsewhere, soon; `Prefer: wait=N` waits for it."""
        order_id = derived_id("order", cause.id)
        command = PlaceOrder(
            cause=cause,
            user_id=user.user_id,
            order_id=order_id,
            price=order.price,
            description=order.description,
        )

        def taken(decided: Decided) -> Answer:
            return Answer.json(
                202, _view(decided.state.orders[order_id]), {"Location": f"/orders/{order_id}"}
            )

        answer = await runtime.ask(command, taken, body=order, admit=admission.admits(command.key))
        if wait:
            row = await _decided(user.user_id, order_id, wait)
            if row is not None and _is_decided(row):
                return Answer(201, Answer.json(201, _view(row)).body, answer.headers)
        return answer

    @routes.post(
        "/orders/{id}/cancel",
        status_code=202,
        response_model=OrderView,
        responses={409: problem("it is already rejected, cancelled or refunded")},
    )
    async def cancel(user: User, cause: KeyedCause, id: UUID) -> Answer:
        """Cancels the order. If it was paid the money comes back soon, and it is `refunded` then."""

        def cancelled(decided: Decided) -> Answer:
            match decided.refusal:
                case NoSuchOrder():
                    return not_found().answer()
                case AlreadyOver(status):
                    return Problem(409, f"already_{status}", f"This order is already {status}.").answer()
            return Answer.json(202, _view(decided.state.orders[id]))

        return await runtime.ask(CancelOrder(cause=cause, user_id=user.user_id, order_id=id), cancelled)

    @routes.get("/orders/{id}")
    async def one(user: User, id: UUID, wait: Wait) -> OrderView:
        """An order of the user's; with `?wait=N`, once it is decided or N seconds have passed."""
        row = await _decided(user.user_id, id, wait)
        if row is None:
            raise not_found()
        return _view(row)

    @routes.get(
        "/orders/{id}/events",
        response_class=StreamingResponse,
        responses={
            200: {"description": "server-sent events", "content": {stream.MEDIA_TYPE: {}}},
            204: {"description": "nothing can follow any more"},
        },
    )
    async def events(user: User, id: UUID, last: LastEventId) -> Response:
        """One event per status change, with the order as it was then: those so far, then those to come.

        Ends after the last status there can be: rejected, refunded, or cancelled and never paid.
        """

        async def look() -> Story:
            row = await queries.order_of(runtime.engine, user.user_id, id)
            if row is None:
                raise not_found()
            return _story(row)

        return await event_stream(
            runtime.kernel.waiters, str(user.user_id), look, after=last, of=("events", id)
        )

    @routes.get("/orders")
    async def page_of_orders(user: User, page: Paging) -> Page[OrderView]:
        """The user's orders, newest first."""
        rows = await queries.orders_of(runtime.engine, user.user_id, page)
        return page.page(rows, item=_view, sequence=lambda row: row.step)

    async def _decided(user_id: UUID, order_id: UUID, seconds: int) -> Row[Any] | None:
        return await runtime.kernel.waiters.until(
            str(user_id),
            seconds,
            look=lambda: queries.order_of(runtime.engine, user_id, order_id),
            enough=lambda row: row is None or _is_decided(row),
            of=order_id,
        )

    return routes


def _is_decided(row: Row[Any]) -> bool:
    return bool(row.status != "created")


def _story(row: Row[Any]) -> Story:
    order = _view(row)
    events = [(change["step"], order.model_copy(update=_as_of(change))) for change in row.changes]
    over = row.status in ("rejected", "refunded") or (row.status == "cancelled" and row.payment == "rejected")
    return Story(events, over)


def _as_of(change: Change) -> dict[str, Any]:
    return {
        "status": change["status"],
        "reason": change["reason"],
        "updated_at": datetime.fromisoformat(change["at"]),
    }


def _view(order: Order | Row[Any]) -> OrderView:
    return OrderView.model_validate(order, from_attributes=True)
