"""Endpoints. FastAPI turns a function's signature into the document, `Route` into the checks before it.

FastAPI's own run of the same signature reads the body before it authenticates, answers bad input
with an echo of it, and costs over 300 µs a request. So `Route` leaves it the documents only and
makes the contract's checks itself, in the contract's order.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, get_args, get_origin, get_type_hints
from uuid import UUID, uuid4

import structlog
from fastapi import APIRouter, Depends, Header, Query, Security
from fastapi.datastructures import DefaultPlaceholder
from fastapi.params import Form
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from choreo.chassis.http import body, pages, waits
from choreo.chassis.http import headers as bounds
from choreo.chassis.http.answer import Answer
from choreo.chassis.http.auth import Principal, Verifier
from choreo.chassis.http.pages import PageRequest
from choreo.chassis.http.problems import PROBLEM_JSON, Problem, malformed, not_found
from choreo.chassis.http.waits import Waits
from choreo.chassis.waiting.turns import Turns
from choreo.message.envelope import Cause, derived_id

# What an endpoint may ask for, besides `UUID` parameters of its path, one body (a pydantic model,
# `Annotated[..., Form()]` for a form) and starlette's `Request`.

_BEARER = HTTPBearer(
    scheme_name="token",
    bearerFormat="JWT",
    description="From `POST /token` of the user service: a JWT signed with Ed25519, good for 15 minutes.",
)
User = Annotated[Principal, Security(_BEARER)]
"""Who asks. Every endpoint takes it, except those of a public router."""


_Traceparent = Annotated[
    str | None,
    Header(
        description="W3C Trace Context: what follows joins this trace. The unreadable is ignored.",
        examples=["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    ),
]


def _keyed_cause(
    idempotency_key: Annotated[
        str,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[!-~]([ -~]*[!-~])?$",
            description="Chosen by the client. The same key and body again get the first answer again; "
            "the same key with another body is a 422.",
            examples=["order-2026-11-23-1"],
        ),
    ],
    traceparent: _Traceparent = None,
) -> None: ...


def _fresh_cause(traceparent: _Traceparent = None) -> None: ...


def _page(
    limit: Annotated[
        int, Query(ge=1, le=pages.MOST_ITEMS, description="How many items at most.")
    ] = pages.DEFAULT_ITEMS,
    cursor: Annotated[
        str | None,
        Query(description="`next` of the page before. Any other text is a 422.", examples=[pages.cursor(17)]),
    ] = None,
) -> None: ...


def _wait(
    wait: Annotated[int, Query(ge=0, le=pages.LONGEST_WAIT, description="Seconds to wait at most.")] = 0,
) -> None: ...


def _preferred_wait(
    prefer: Annotated[
        str | None,
        Header(
            description=f"`wait=N` (RFC 7240): wait N seconds for the outcome, at most {pages.LONGEST_WAIT}. "
            "A wish: the unreadable is ignored.",
            examples=["wait=10"],
        ),
    ] = None,
) -> None: ...


def _last_event(
    last_event_id: Annotated[str | None, Header(description="`id` of the last event that was seen")] = None,
) -> None: ...


def _flow(
    flow: Annotated[UUID | None, Query(description="answer once an event of this flow was applied")] = None,
    wait: Annotated[int, Query(ge=0, le=pages.LONGEST_WAIT, description="seconds")] = 0,
) -> None: ...


KeyedCause = Annotated[Cause, Depends(_keyed_cause)]
"""The root of a flow. Its id is derived from service, user, method, path and `Idempotency-Key`."""

FreshCause = Annotated[Cause, Depends(_fresh_cause)]
"""The root of a flow that no idempotency key names: every request is a new one."""

Paging = Annotated[PageRequest, Depends(_page)]
"""`?limit=` and `?cursor=`."""

Wait = Annotated[int, Depends(_wait)]
"""`?wait=`, in seconds; 0 if it is not given, or if it is a flow that is waited for."""

PreferredWait = Annotated[int, Depends(_preferred_wait)]
"""`Prefer: wait=N`, in seconds; 0 if it is not given. It is a wish: the unreadable is ignored, more is 30."""

LastEventId = Annotated[int, Depends(_last_event)]
"""`Last-Event-ID`; 0 if it is not given, or none of ours: then everything is told once more."""

_QUERY: Mapping[object, Callable[[pages.Query], object]] = {_page: pages.Query.page, _wait: pages.Query.wait}


FlowApplied = Callable[[UUID, UUID, int], Awaitable[bool]]
"""Whether this flow was applied to this user here, as soon as it was, or after so many seconds."""


@dataclass(frozen=True)
class ServiceSide:
    """What the checks of every route ask."""

    name: str
    verifier: Verifier
    flow_applied: FlowApplied
    turns: Turns
    waits: Waits = field(default_factory=Waits)


def example(**members: str | int) -> ConfigDict:
    """For a model of a body: `model_config = example(price="300.00")`, a whole one, as on the wire."""
    return ConfigDict(json_schema_extra={"examples": [{**members}]})


def problem(description: str, *headers: str) -> dict[str, Any]:
    """For `responses={409: problem("...")}`. `headers` are names of `HEADERS`."""
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": description, "content": content, **with_headers(*headers)}


def with_headers(*names: str) -> dict[str, Any]:
    """For `responses={202: with_headers("Location")}`."""
    return {"headers": {name: HEADERS[name] for name in names}} if names else {}


HEADERS: Mapping[str, dict[str, Any]] = {
    "Flow-Id": {
        "description": "The correlation id of everything that follows from this request.",
        "required": True,
        "schema": {"type": "string", "format": "uuid"},
    },
    "Location": {"description": "Where it is found.", "required": True, "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"description": "RFC 6750.", "required": True, "schema": {"type": "string"}},
}
"""What answers say of themselves, for the document."""


class Route(APIRoute):
    """An endpoint behind a bearer token. It returns an `Answer`, a model, or a Starlette response."""

    public = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self._sort_parameters(path, endpoint)
        if isinstance(options.get("response_model"), DefaultPlaceholder):
            returned = get_type_hints(endpoint).get("return")
            is_model = isinstance(returned, type) and issubclass(returned, BaseModel)
            options["response_model"] = returned if is_model else None
        self._takes_flow = not self.public and "GET" in (options.get("methods") or ("GET",))
        if self._takes_flow:
            options["dependencies"] = [*(options.get("dependencies") or ()), Depends(_flow)]
        self._success = options.get("status_code") or 200
        options["responses"] = self._documented(options.get("responses") or {})
        options["operation_id"] = re.sub(r"[\W_]+", "_", f"{options['methods'][0]}{path}").lower().strip("_")
        options["summary"] = (endpoint.__doc__ or "").partition(".")[0]
        super().__init__(path, endpoint, **options)

    def _sort_parameters(self, path: str, endpoint: Callable[..., Any]) -> None:
        """Fails at once on a parameter that the checks would not fill."""
        self._user: str | None = None
        self._model: type[BaseModel] | None = None
        self._body = ""
        self._form = False
        self._keyed: str | None = None
        self._fresh: str | None = None
        self._preferred: str | None = None
        self._last_event: str | None = None
        self._request: str | None = None
        self._query: dict[str, Callable[[pages.Query], object]] = {}
        self._ids: list[str] = []
        hints = get_type_hints(endpoint, include_extras=True)
        for name in inspect.signature(endpoint).parameters:
            kind, *extras = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
            asked = getattr(extras[0], "dependency", None) if extras else None
            if kind is Principal:
                self._user = name
            elif asked is _keyed_cause:
                self._keyed = name
            elif asked is _fresh_cause:
                self._fresh = name
            elif asked is _preferred_wait:
                self._preferred = name
            elif asked is _last_event:
                self._last_event = name
            elif asked in _QUERY:
                self._query[name] = _QUERY[asked]
            elif kind is UUID and f"{{{name}}}" in path:
                self._ids.append(name)
            elif kind is Request:
                self._request = name
            elif isinstance(kind, type) and issubclass(kind, BaseModel) and self._model is None:
                self._body, self._model = name, kind
                self._form = any(isinstance(extra, Form) for extra in extras)
            else:
                raise TypeError(f"{endpoint.__qualname__}: nothing fills the parameter {name!r}")
        if (self._user is None) != self.public:
            raise TypeError(f"{endpoint.__qualname__}: either a parameter of type User, or a public router")
        if self._keyed and self.public:
            raise TypeError(f"{endpoint.__qualname__}: an idempotency key needs a user")
        self._streams = self._last_event is not None
        self._may_wait = bool(self._preferred) or pages.Query.wait in self._query.values()

    def _documented(self, told: Mapping[int | str, Mapping[str, Any]]) -> dict[int | str, dict[str, Any]]:
        """Every status there is: what the endpoint says of its own, and what the checks below answer."""
        found = {
            401: (not self.public, "no valid bearer token", ["WWW-Authenticate"]),
            421: (True, "a `Host` that is not ours", []),
            429: (
                self._streams or self._takes_flow,
                f"{waits.MOST} requests of the user wait already",
                ["Retry-After"],
            ),
            431: (True, f"over {bounds.MOST} headers or {bounds.MOST_BYTES} bytes of them", []),
            413: (True, f"a body of more than {body.LIMIT} bytes", []),
            415: (self._model, "a body of another type, or compressed", []),
            400: (True, "a malformed body, no `Idempotency-Key`, not one `Host`", []),
            422: (
                self._model or self._query or self._keyed or self._takes_flow,
                "unacceptable fields, parameters or key",
                [],
            ),
            404: (self._ids, "no such thing, or not yours", []),
            500: (True, "a fault of ours, which is logged", []),
            503: (True, "not now", ["Retry-After"]),
        }
        responses: dict[int | str, dict[str, Any]] = {
            self._success: {"description": HTTPStatus(self._success).phrase},
            **{status: problem(text, *headers) for status, (given, text, headers) in found.items() if given},
        }
        for status, told_of_it in told.items():
            responses[status] = responses.get(status, {}) | dict(told_of_it)
        if self._keyed or self._fresh:
            for status in (status for status in responses if 200 <= int(status) < 300):
                flow = with_headers("Flow-Id")["headers"]
                responses[status]["headers"] = responses[status].get("headers", {}) | flow
        return dict(sorted(responses.items()))

    async def respond(
        self,
        service: ServiceSide,
        headers: Mapping[bytes, bytes],
        scope: Scope,
        receive: Receive,
        until_answered: ExitStack,
    ) -> Answer | Response:
        """The contract's checks, in the contract's order, then the endpoint. Raises `Problem`."""
        arguments: dict[str, Any] = {}
        user_id: UUID | None = None
        if self._user:
            principal = arguments[self._user] = await service.verifier.principal(
                headers.get(b"authorization")
            )  # 401
            user_id = principal.user_id
            structlog.contextvars.bind_contextvars(user=str(user_id))
        raw = await body.read(receive, headers)  # 413
        content: object = None
        if self._model:
            body.check_content_type(headers, body.FORM_TYPE if self._form else body.JSON_TYPE)  # 415
            most_parts = getattr(self._model, "most_parts", body.MOST_PARTS)
            content = body.parse_form(raw) if self._form else body.parse_json(raw, most_parts)  # 400
        idempotency_key = _idempotency_key(headers) if self._keyed else ""  # 400
        flow: UUID | None = None
        seconds = 0
        if self._query or self._takes_flow:
            query = pages.Query(scope["query_string"])
            flow = query.flow() if self._takes_flow else None  # 422
            seconds = query.wait() if self._takes_flow else 0  # 422
            for name, reader in self._query.items():
                arguments[name] = 0 if flow and reader is pages.Query.wait else reader(query)  # 422
        if self._model:
            arguments[self._body] = body.validate(self._model, content)  # 422
        ids = {name: _id(scope["path_params"][name]) for name in self._ids}  # 404
        arguments |= ids
        if self._keyed:
            # The path as we would write it: two spellings of an id are one request.
            path = self.path_format.format_map(ids)
            id = derived_id("command", service.name, user_id, scope["method"], path, idempotency_key)
            arguments[self._keyed] = _root(id, headers)
        if self._fresh:
            arguments[self._fresh] = _root(uuid4(), headers)
        if self._preferred:
            seconds = 0 if service.waits.is_full(user_id) else _wish(headers)
            arguments[self._preferred] = seconds
        if self._last_event:
            arguments[self._last_event] = _number(headers.get(b"last-event-id", b""))
        if self._request:
            arguments[self._request] = Request(scope, receive)
        if user_id and (self._streams or (seconds and (flow or self._may_wait))):
            await service.waits.admit(user_id)  # 429
            until_answered.enter_context(service.waits.one(user_id))
        if flow is None or user_id is None:
            return await self._call(arguments, service.turns, user_id)
        applied = await service.flow_applied(user_id, flow, seconds)
        told = {"Flow-Applied": "true" if applied else "false"}
        try:
            outcome = await self._call(arguments, service.turns, user_id)
        except Problem as problem:
            problem.headers |= told
            raise
        if isinstance(outcome, Answer):
            return outcome.with_headers(told)
        outcome.headers.update(told)
        return outcome

    async def _call(
        self, arguments: Mapping[str, Any], turns: Turns, user_id: UUID | None
    ) -> Answer | Response:
        """What reads takes a turn of the user's. What may wait takes one for each look by itself."""
        reads = self._takes_flow and not (self._streams or self._may_wait)
        async with turns.one(str(user_id)) if reads else nullcontext():
            outcome = await self.endpoint(**arguments)
        if isinstance(outcome, BaseModel):
            return Answer.json(self._success, outcome)
        if isinstance(outcome, Answer | Response):
            return outcome
        raise TypeError(f"{self.endpoint.__qualname__} returned {type(outcome).__name__}")


class PublicRoute(Route):
    """An endpoint for anyone."""

    public = True


class Router(APIRouter):
    """Collects a service's endpoints: `@router.get("/account")` and so on."""

    def __init__(self, *, public: bool = False) -> None:
        super().__init__(route_class=PublicRoute if public else Route)


_PRINTABLE = re.compile(rb"[ -~]{1,255}")


def _idempotency_key(headers: Mapping[bytes, bytes]) -> str:
    key = headers.get(b"idempotency-key", b"").strip()
    if not key:
        raise malformed("idempotency_key_missing", "This request needs an Idempotency-Key header.")
    if not _PRINTABLE.fullmatch(key):
        detail = "An Idempotency-Key has at most 255 characters, all of them printable ASCII."
        raise malformed("idempotency_key_malformed", detail)
    return key.decode("ascii")


def _id(text: str) -> UUID:
    """An id in a path: what is no UUID names nothing."""
    if not pages.UUID_FORM.fullmatch(text):
        raise not_found()
    return UUID(text)


_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-"
    rb"(?P<caller>(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<more>-.*)?"
)


def _root(id: UUID, headers: Mapping[bytes, bytes]) -> Cause:
    """A flow begins. It joins the client's trace if the client told a valid one (W3C Trace Context)."""
    structlog.contextvars.bind_contextvars(flow=str(id))
    told = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    if told is None or (told["more"] is not None and told.string.startswith(b"00-")):  # 00 has no more
        return Cause.root(id)
    return Cause.root(id, told["trace"].decode(), told["caller"].decode())


def _number(text: bytes) -> int:
    return int(text) if re.fullmatch(rb"[0-9]{1,18}", text) else 0


_WAIT = re.compile(rb'(?:^|,)\s*wait\s*=\s*("?)([0-9]{1,9})\1\s*(?=$|[,;])', re.IGNORECASE)


def _wish(headers: Mapping[bytes, bytes]) -> int:
    """RFC 7240: the first `wait` counts, and a wish is never an error."""
    wish = _WAIT.search(headers.get(b"prefer", b""))
    return min(int(wish.group(2)), pages.LONGEST_WAIT) if wish else 0
