"""The HTTP edge of a service: every request comes in and every answer goes out through `Edge`."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from datetime import datetime
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from re import Pattern
from typing import Any, Literal

import structlog
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.routing import Route as StarletteRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from choreo.chassis.http import problems
from choreo.chassis.http.answer import JSON, Answer
from choreo.chassis.http.auth import Verifier
from choreo.chassis.http.body import ClientGone
from choreo.chassis.http.headers import Hosts, read
from choreo.chassis.http.problems import Problem
from choreo.chassis.http.routes import FlowApplied, Route, Router, ServiceSide
from choreo.chassis.observe.health import Health, JobState
from choreo.chassis.observe.metrics import CONTENT_TYPE, Metrics
from choreo.chassis.waiting.turns import Pace, Turns

log = structlog.get_logger()

Translate = Mapping[type[Exception], Problem]
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    service: str,
    routers: Iterable[Router] = (),
    *,
    verifier: Verifier,
    flow_applied: FlowApplied,
    turns: Turns,
    health: Health,
    metrics: Metrics,
    hosts: Iterable[str],
    translate: Translate | None = None,
    lifespan: Lifespan | None = None,
) -> FastAPI:
    """One service's app, with health, metrics and documents.

    `hosts` are the names it answers to. `translate` says which problem answers an exception of the layers
    below; any other is a 500.
    Starlette's middleware is not used: whatever every request needs is in `Edge`.
    """
    app = _App(
        title=f"{service.capitalize()} service",
        version="1",
        description=_DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        lifespan=lifespan,
    )
    for router in (*routers, _operations(health, metrics)):
        # Not include_router: it would wrap every request in another layer of matching.
        app.router.routes.extend(router.routes)
    routes = [route for route in app.router.routes if isinstance(route, Route)]
    app.router.routes += _documentation(app.title)
    side = ServiceSide(service, verifier, flow_applied, turns)
    app.edge = Edge(side, routes, app.router, Hosts(hosts), metrics, translate or {})
    return app


_DESCRIPTION = """One of the services of a shop. They meet only through Kafka: see the AsyncAPI document.

Errors are RFC 9457 problem details. Money is a decimal string with two places, times are RFC 3339 in UTC,
lists are pages, newest first. Bodies are read strictly: an unknown field, a number with three decimals or a
key that stands there twice is refused."""


class _App(FastAPI):
    edge: "Edge"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.edge(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas["Problem"] = problems.SCHEMA
            if schemas.pop("HTTPValidationError", None):
                # FastAPI's own 422, for ids in a path: what is no id is a 404 here.
                del schemas["ValidationError"]
                for methods in document["paths"].values():
                    for operation in methods.values():
                        _drop_foreign_422(operation["responses"])
        return super().openapi()


def _drop_foreign_422(responses: dict[str, Any]) -> None:
    if JSON in responses.get("422", {}).get("content", {}):
        del responses["422"]


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class JobView(BaseModel):
    ready: bool
    waiting: int
    since: datetime
    cause: str | None


class Ready(BaseModel):
    ready: bool
    jobs: dict[str, JobView]


def _readiness(states: Mapping[str, JobState], holds: Callable[[JobState], bool]) -> Ready:
    """Raises the 503 that says the same where this does not hold of every job."""
    jobs = {name: JobView.model_validate(state, from_attributes=True) for name, state in states.items()}
    held_up = [name for name, state in states.items() if not holds(state)]
    if held_up:
        told = Ready(ready=False, jobs=jobs).model_dump(mode="json")
        detail = f"Not ready: {', '.join(held_up)}."
        raise Problem(503, "not_ready", detail, headers={"Retry-After": "1"}, **told)
    return Ready(ready=True, jobs=jobs)


def _operations(health: Health, metrics: Metrics) -> Router:
    router = Router(public=True)

    @router.get("/health/live", tags=["operations"])
    async def live() -> Alive:
        """200 while the process answers at all."""
        return Alive()

    @router.get("/health/serving", tags=["operations"])
    async def serving() -> Ready:
        """200 while this process can take requests, else 503. For whoever spreads traffic over processes:
        a broker that is away takes none out."""
        return _readiness(await health.serving(), attrgetter("serves"))

    @router.get("/health/ready", tags=["operations"])
    async def ready() -> Ready:
        """200 when every job gets on, else 503; either says of each what waits, since when, and why."""
        return _readiness(await health.ready(), attrgetter("ready"))

    @router.get("/metrics", tags=["operations"], response_class=PlainTextResponse)
    async def prometheus() -> Answer:
        """Prometheus text format."""
        return Answer(200, metrics.exposition(), {"Content-Type": CONTENT_TYPE})

    return router


_ASSETS = "/docs/assets"


def _documentation(title: str) -> list[BaseRoute]:
    """The page for people, with the scripts and styles of a package: no one else's server has a say in it."""
    package = find_spec("fastapi_offline")
    assert package is not None and package.origin is not None
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
    )
    return [
        Mount(_ASSETS, StaticFiles(directory=Path(package.origin).with_name("static"))),
        StarletteRoute("/docs", lambda _: page),
    ]


_ON_EVERY_ANSWER = [
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_ON_OURS = [*_ON_EVERY_ANSWER, (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")]
_ON_PAGES = [
    *_ON_EVERY_ANSWER,
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    ),
]
"""Ours hold no page; the documentation's page needs its scripts."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_GONE = 499
"""As nginx has it: the client left before there was an answer."""

_QUIET = ("/health/live", "/health/serving", "/health/ready", "/metrics")


class Edge:
    """Finds the route, turns whatever is raised into a problem, counts and logs.

    Nothing a client sends gets into a log line or a metric: only the route's template.
    """

    def __init__(
        self,
        service: ServiceSide,
        routes: Iterable[Route],
        documents: ASGIApp,
        hosts: Hosts,
        metrics: Metrics,
        translate: Translate,
    ) -> None:
        self._service = service
        self._documents = documents
        self._hosts = hosts
        self._pace = Pace()
        self._metrics = metrics
        self._translate = translate
        self._plain: dict[str, dict[str, Route]] = {}
        self._patterns: dict[Pattern[str], dict[str, Route]] = {}
        for route in routes:
            methods = (
                self._patterns.setdefault(route.path_regex, {})
                if route.param_convertors
                else self._plain.setdefault(route.path, {})
            )
            methods.update(dict.fromkeys(route.methods or (), route))
            if "GET" in (route.methods or ()):
                methods.setdefault("HEAD", route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._documents(scope, receive, send)
            return
        structlog.contextvars.clear_contextvars()
        began = time.perf_counter()
        reply = _Reply(send, without_body=scope["method"] == "HEAD")
        template = "unmatched"
        try:
            headers = read(scope["headers"])
            await self._pace.begin(self._whose(scope["path"], headers))
            self._hosts.check(scope["headers"], scope["http_version"], any_name=scope["path"] in _QUIET)
            route = self._find(scope)
            if route is None:
                await self._documents(scope, receive, reply.pass_on)
            else:
                template = route.path_format
                with ExitStack() as until_answered:
                    outcome = await route.respond(self._service, headers, scope, receive, until_answered)
                    if isinstance(outcome, Answer):
                        await reply.give(outcome)
                    elif scope["method"] == "HEAD":
                        await reply.give_head(outcome)
                    else:
                        await outcome(scope, receive, reply.pass_on)
        except ClientGone:
            pass  # nobody is there to be answered
        except Exception as error:
            found = self._problem(error)
            if reply.status:
                raise  # half an answer is out: only closing the connection tells the client
            await reply.give(found.answer())
        finally:
            self._record(scope["method"], template, reply.status or _CLIENT_GONE, time.perf_counter() - began)

    def _whose(self, path: str, headers: Mapping[bytes, bytes]) -> str:
        """All strangers are one, and who asks for health or metrics is not held up by them."""
        return path if path in _QUIET else str(self._service.verifier.user_of(headers.get(b"authorization")))

    def _find(self, scope: Scope) -> Route | None:
        methods = self._plain.get(scope["path"])
        if methods is None:
            for pattern, candidates in self._patterns.items():
                match = pattern.fullmatch(scope["path"])
                if match:
                    scope["path_params"] = match.groupdict()
                    methods = candidates
                    break
            else:
                return None
        route = methods.get(scope["method"])
        if route is None:
            raise problems.of_status(405, {"Allow": ", ".join(sorted(methods))})
        return route

    def _problem(self, error: Exception) -> Problem:
        if isinstance(error, Problem):
            return error
        if isinstance(error, HTTPException):
            return problems.of_status(error.status_code, error.headers)
        for kind, found in self._translate.items():
            if isinstance(error, kind):
                # Its kind only: the text of a driver's error may hold what the client sent.
                structlog.contextvars.bind_contextvars(problem=found.code, error=type(error).__name__)
                return found
        log.error("request failed", exc_info=error)
        return problems.internal_error()

    def _record(self, method: str, template: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "_OTHER"
        self._metrics.request(method, template, status, seconds)
        write = log.debug if template in _QUIET else log.info
        write("request", method=method, route=template, status=status, ms=round(seconds * 1000, 2))


def operations_alone(app: ASGIApp, port: int) -> ASGIApp:
    """The app, which answers nothing but health and metrics to whoever came by `port`."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        by_port = scope["type"] == "http" and scope["server"][1] == port
        if by_port and scope["path"] not in _QUIET:
            await _Reply(send).give(problems.of_status(404).answer())
        else:
            await app(scope, receive, send)

    return answer


class _Reply:
    """The way out. `status` is 0 until an answer has begun."""

    __slots__ = ("_send", "_without_body", "status")

    def __init__(self, send: Send, *, without_body: bool = False) -> None:
        self._send = send
        self._without_body = without_body
        self.status = 0

    async def give(self, answer: Answer) -> None:
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in answer.headers.items()
        ]
        if answer.status != 204:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        headers += _ON_OURS
        self.status = answer.status
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self._without_body else answer.body})

    async def give_head(self, response: Response) -> None:
        """Of one that sends itself: its body is never begun."""
        headers = response.raw_headers
        await self.pass_on(
            {"type": "http.response.start", "status": response.status_code, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": b""})

    async def pass_on(self, message: Message) -> None:
        """For responses that send themselves: the documentation, event streams."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *_ON_PAGES]
        await self._send(message)
