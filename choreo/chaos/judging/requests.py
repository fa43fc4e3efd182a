"""I6: what was answered 2xx survives, what was refused left nothing, and nothing is there unasked."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from choreo.chaos.history import Request
from choreo.chaos.judging.case import Case, names
from choreo.chaos.judging.log import Event

_ID_IN = {"register": "user_id", "deposit": "entry_id", "order": "order_id", "cancel": "order_id"}
_EFFECTS = {"ok": (1, 1), "failed": (0, 0), "unknown": (0, 1)}
"""At least and at most so many."""

Wish = tuple[object, ...]


def have_their_effect(case: Case) -> Iterator[str]:
    facts: dict[Wish, list[Event]] = defaultdict(list)
    for event in case.log.of("UserRegistered", "MoneyDeposited", "OrderCreated", "OrderCancelled"):
        if event.data.get("reason") != "expired":
            facts[_granted(event)].append(event)
    known = [request for request in case.history.requests if request.kind != "other"]
    for request in known:
        yield from _has_its_effect(request, facts.get(_wished(request), []))
    wishes = set(map(_wished, known))
    for wish, granted in facts.items():
        if wish not in wishes:
            yield f"nobody asked for {names(granted)}"


def _wished(request: Request) -> Wish:
    """What brings a request and its fact together."""
    if request.kind == "deposit":
        return request.kind, request.user_id, request.amount
    return request.kind, request.marker


def _granted(event: Event) -> Wish:
    match event.type:
        case "UserRegistered":
            return "register", event.data["login"]
        case "MoneyDeposited":
            return "deposit", event.key, event.data["amount"]
        case "OrderCancelled":
            return "cancel", event.data["order_id"]
    described = event.data["description"]
    return "order", event.data["order_id"] if described is None else described


def _has_its_effect(request: Request, facts: Sequence[Event]) -> Iterator[str]:
    wish = f"{' '.join(map(str, _wished(request)))}, {request.outcome} with status {request.status},"
    least, most = _EFFECTS[request.outcome]
    if not least <= len(facts) <= most:
        yield f"{wish} has {len(facts)} effects: {names(facts)}"
    for fact in facts:
        if request.outcome == "ok" and fact.data[_ID_IN[request.kind]] != request.id:
            yield f"{wish} was answered with id {request.id}, which is not that of {fact.name}"
        if request.kind == "order" and (fact.key, fact.data["price"]) != (request.user_id, request.amount):
            yield (
                f"{wish} was for {request.amount} by {request.user_id}, "
                f"and {fact.name} is for {fact.data['price']} by {fact.key}"
            )
