"""What services ask each other, with a credential of theirs. No client is let in, and no document tells."""

import hmac
from collections.abc import Collection, Mapping
from uuid import UUID

from starlette.requests import Request

from choreo.chassis.http.answer import Answer
from choreo.chassis.http.body import LIMIT, Body
from choreo.chassis.http.problems import malformed, unauthorized
from choreo.chassis.http.routes import Router
from choreo.styles.composition import digest_of
from choreo.styles.http.callee import FACTS_PATH, SETTLED_PATH
from choreo.styles.http.calls import Calls
from choreo.styles.http.door import Door
from choreo.styles.http.wire import from_wire, to_wire

_MALFORMED = "What was brought is no fact of a service of this system."


class Fact(Body):
    key: str
    value: str
    headers: list[list[str]]


class Told(Body):
    most_parts = LIMIT

    key: str
    facts: list[Fact]
    after: str | None


class Settled(Body):
    most_parts = LIMIT

    ids: list[str]


def router(door: Door, calls: Calls, credentials: Mapping[str, str]) -> Router:
    """`credentials` are digests, by the service that may call with what they are of."""
    routes = Router(public=True)

    def caller(request: Request) -> str:
        """Raises 401."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        digest = digest_of(given)
        for service, known in credentials.items():
            if hmac.compare_digest(digest, known):
                return service
        raise unauthorized(token_given=bool(given))

    @routes.post(FACTS_PATH, include_in_schema=False)
    async def facts(request: Request, told: Told) -> Answer:
        """Answers once they are committed, with what is decided here and the caller has not settled yet."""
        who = caller(request)
        try:
            brought = [from_wire(fact.model_dump()) for fact in told.facts]
            after = UUID(told.after) if told.after else None
        except (KeyError, ValueError, TypeError):
            raise malformed("no_fact", _MALFORMED) from None
        if brought:
            await door.hear(brought)
            await calls.look()
        answer = calls.for_caller(who, told.key, after)
        return Answer.json(200, {"facts": [to_wire(fact) for fact in answer]})

    @routes.post(SETTLED_PATH, include_in_schema=False)
    async def settled(request: Request, told: Settled) -> Answer:
        """The caller has these."""
        who = caller(request)
        try:
            ids: Collection[UUID] = [UUID(id) for id in told.ids]
        except ValueError:
            raise malformed("no_fact", _MALFORMED) from None
        await calls.settled(who, ids)
        return Answer.json(200, {})

    return routes
