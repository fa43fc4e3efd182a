"""The console's pages: each is a view as HTML, and with `.json` behind its path as JSON."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from importlib.resources import files
from typing import Annotated, Any, Concatenate, ParamSpec, get_args
from urllib.parse import quote, urlencode

import psycopg
import structlog
from fastapi import Depends, FastAPI, Form, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.sse import EventSourceResponse, format_sse_event
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp

from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import services
from choreo.console.filters import Limit, LogOptions, flow_filter
from choreo.console.guard import POSTS, Guard
from choreo.console.lanes import lanes_of
from choreo.console.map import age, map_of
from choreo.console.money import Money
from choreo.console.past import Past
from choreo.console.verification import origins_of
from choreo.console.views import View, Views, masked
from choreo.errors import Incomplete, Unavailable, UsageError
from choreo.operations.reading.flows import settings_of
from choreo.operations.reading.replay_source import System
from choreo.replay.history.moments import NoMoment
from choreo.replay.sources.records import Broken
from choreo.replay.sources.telling import whose
from choreo.replay.trace.flows import State
from choreo.replay.trace.log import Place

P = ParamSpec("P")
Asked = Annotated[LogOptions, Depends()]

_STATUS: Mapping[type[Exception], int] = {
    UsageError: 400,
    NoMoment: 400,
    Broken: 503,
    Incomplete: 503,
    Unavailable: 503,
    TimeoutError: 504,
    psycopg.Error: 503,
    OSError: 503,
    **dict.fromkeys(LOG_UNREADABLE, 503),
}
"""What an exception of the layers below means to a browser. Its first line is a sentence for people."""

_FILES = {
    "console.css": "text/css",
    "console.js": "text/javascript",
    "console.svg": "image/svg+xml",
    "htmx.min.js": "text/javascript",
    "hx-sse.min.js": "text/javascript",
}
_LOOK_AGAIN_SECONDS = 2.0
_LEAST_REST = 9.0
"""For each second that a look took: what is followed costs a tenth of the time at most."""
_LONGEST_REST_SECONDS = 10.0
"""All the same: what takes so long mostly waits for a busy machine, and people for it."""

_log = structlog.get_logger()


def create_app(where: System | Views, hosts: Iterable[str]) -> ASGIApp:
    """`hosts` are the names it answers to."""
    return Guard(_Console(where if isinstance(where, Views) else Views(where)).app, hosts)


class _Console:
    def __init__(self, views: Views) -> None:
        self._views = views
        self._templates = Environment(
            loader=PackageLoader("choreo.console", "pages"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {
            "topics": self._views.topics,
            "whose": whose,
            "money": Money(services(settings_of(views.where))),
            "lanes_of": lanes_of,
            "map_of": map_of,
            "age": age,
            "origins_of": origins_of,
            "past_of": Past,
            "with_past": self._views.tables.keys(),
            "pretty": lambda data: json.dumps(data, indent=2, default=str, ensure_ascii=False),
        }
        self._templates.filters["segment"] = lambda text: quote(str(text), safe="")
        self.app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        self._add_screens()
        for kind in (*_STATUS, RequestValidationError, HTTPException):
            self.app.add_exception_handler(kind, self._wrong)

    def _add_screens(self) -> None:
        self._screen("/", "now.html", self._now, live=True)
        self._screen("/flows", "flows.html", self._flows)
        self._screen("/flows/{id:path}", "flow.html", self._flow, live=True)
        self._screen("/at", "past.html", self._pasts)
        self._screen("/at/{service}", "past.html", self._past)
        self._screen("/at/{service}/{table}", "past.html", self._past)
        self._screen("/whole/{service}/{table}", "whole.html", self._whole, live=True)
        self._screen("/log/{topic}", "log.html", self._topic)
        self._screen("/log/{topic}/{partition}", "log.html", self._partition)
        self._screen("/log/{topic}/{partition}/{offset}", "log.html", self._record)
        self._screen("/parked", "parked.html", self._parked)
        self._screen("/verify", "verify.html", self._verify, live=True)
        buttons: Sequence[Callable[..., Any]] = (self._start, self._cancel, self._fold, self._stop_folding)
        for path, begin in zip(POSTS, buttons, strict=True):
            self.app.add_api_route(path, begin, methods=["POST"], response_model=None)
        self.app.add_api_route("/moment", self._moment, methods=["GET"])
        self.app.add_api_route("/search", self._search, methods=["GET"])
        for name, media_type in _FILES.items():
            self._file(name, media_type)

    def _screen(
        self,
        path: str,
        template: str,
        view: Callable[Concatenate[Request, P], Awaitable[View]],
        *,
        live: bool = False,
    ) -> None:
        """Serves it as a page, and as JSON under the same path with `.json` behind it. What is live has a
        part in a template of its own, which `/live` before the path sends again and again.
        """
        part = template.replace(".html", "_view.html")

        @wraps(view)
        async def as_json(request: Request, *args: P.args, **kwargs: P.kwargs) -> Response:
            told = await view(request, *args, **kwargs)
            return _json(_shown(told.data, request), 200 if told.found else 404)

        @wraps(view)
        async def as_page(request: Request, *args: P.args, **kwargs: P.kwargs) -> Response:
            told = await view(request, *args, **kwargs)
            return self._page(
                told.template or template,
                request,
                200 if told.found else 404,
                view=_shown(told.data, request),
                command=told.command,
                json_link=_link("/now.json" if path == "/" else f"{request.url.path}.json", request),
                live_link=_link(f"/live{request.url.path}", request) if live and not told.ended else "",
                part=part,
            )

        @wraps(view)
        async def as_stream(request: Request, *args: P.args, **kwargs: P.kwargs) -> Response:
            return EventSourceResponse(self._follow(part, request, lambda: view(request, *args, **kwargs)))

        if live:
            self.app.add_api_route(f"/live{path}", as_stream, methods=["GET"], response_model=None)

        # What has nothing but a look may be asked for by HEAD, too.
        for ending, answer in ((".json", as_json), ("", as_page)):
            place = "/now.json" if path + ending == "/.json" else path + ending
            self.app.add_api_route(place, answer, methods=["GET", "HEAD"], response_model=None)

    async def _follow(
        self, part: str, request: Request, look: Callable[[], Awaitable[View]]
    ) -> AsyncIterator[bytes]:
        """Sends this part of the page as it is now, and again and again until there is nothing to come."""
        while True:
            begun = time.monotonic()
            try:
                told = await look()
                ended = told.ended
                text = self._rendered(part, request, view=_shown(told.data, request))
            except tuple(_STATUS) as error:
                ended, text = False, self._rendered("gone.html", request, says=_told(error)[1])
            yield format_sse_event(data_str=text)
            if ended:
                yield format_sse_event(event="end", data_str="")
                return
            rest = max(_LOOK_AGAIN_SECONDS, _LEAST_REST * (time.monotonic() - begun))
            await asyncio.sleep(min(rest, _LONGEST_REST_SECONDS))

    def _file(self, name: str, media_type: str) -> None:
        """Serves it as it is in the package."""
        body = files("choreo.console").joinpath("pages", name).read_bytes()

        async def answer() -> Response:
            return Response(body, media_type=media_type)

        self.app.add_api_route(f"/{name}", answer, methods=["GET"])

    async def _now(self, request: Request) -> View:
        return await self._views.now()

    async def _flows(
        self,
        request: Request,
        of: str = "",
        state: Annotated[str, Query(pattern=f"^({'|'.join(get_args(State))})?$")] = "",
        outcome: str = "",
        amount: str = "",
        since: str = "",
        until: str = "",
        slower: str = "",
        limit: Limit = 50,
    ) -> View:
        told = {"state": state, "outcome": outcome, "amount": amount, "since": since, "until": until}
        filter, options = flow_filter(told | {"slower": slower})
        if of := of.strip():
            options = ["--of", of, *options]
        return await self._views.flows(filter, limit, of or None, options)

    async def _flow(self, request: Request, id: str) -> View:
        return await self._views.flow(id)

    async def _pasts(self, request: Request) -> View:
        return await self._views.pasts()

    async def _past(
        self,
        request: Request,
        service: str,
        table: str | None = None,
        key: str = "",
        moment: str = "",
        diff: str = "",
        row: str = "",
        after: Annotated[Sequence[str], Query()] = (),
    ) -> View:
        """Without a key a table as it is, by pages."""
        if not key.strip():
            return await (self._views.rows(service, table, after) if table else self._views.pasts())
        told = (text.strip() or None for text in (moment, diff, row))
        return await self._views.past(service, table, key.strip(), *told)

    async def _moment(self, request: Request, service: str, key: str, step: int, table: str = "") -> Response:
        """Goes to where the input of this number had just been taken: a slider knows numbers alone."""
        id = await self._views.input(service, key, step)
        place = "/at/" + "/".join(quote(part, safe="") for part in (service, table) if part)
        return RedirectResponse(_link(place, request, service=None, table=None, step=None, moment=id), 303)

    async def _topic(self, request: Request, topic: str, options: Asked) -> View:
        return await self._read_log(topic, options)

    async def _partition(self, request: Request, topic: str, partition: int, options: Asked) -> View:
        return await self._read_log(f"{topic}[{partition}]", options)

    async def _record(
        self, request: Request, topic: str, partition: int, offset: int, options: Asked
    ) -> View:
        return await self._read_log(f"{topic}[{partition}]@{offset}", options)

    async def _read_log(self, place: str, options: LogOptions) -> View:
        return await self._views.log(place, options.filter, options.limit, options.options)

    async def _parked(self, request: Request) -> View:
        return await self._views.parked()

    async def _verify(self, request: Request) -> View:
        return self._views.verification()

    async def _start(self, request: Request, closed_loop: Annotated[str, Form()] = "") -> Response:
        await self._views.verifying.start(closed_loop=bool(closed_loop))
        return RedirectResponse("/verify", 303)

    async def _cancel(self, request: Request) -> Response:
        await self._views.verifying.cancel()
        return RedirectResponse("/verify", 303)

    async def _whole(self, request: Request, service: str, table: str) -> View:
        return self._views.whole_table(service, table)

    async def _fold(
        self,
        request: Request,
        service: Annotated[str, Form()],
        table: Annotated[str, Form()],
        moment: Annotated[str, Form()] = "",
    ) -> Response:
        self._views.whole_table(service, table)  # raises where there is none
        end = self._views.end
        await self._views.folding.start(service=service, table=table, moment=moment.strip() or end)
        return RedirectResponse(f"/whole/{quote(service, safe='')}/{quote(table, safe='')}", 303)

    async def _stop_folding(self, request: Request) -> Response:
        folding = self._views.folding
        await folding.cancel()
        place = (folding.service, folding.table)
        return RedirectResponse("/".join(("/whole", *(quote(part, safe="") for part in place))), 303)

    async def _search(self, request: Request, q: str = "") -> Response:
        """Goes to where this is shown: a place in a topic, or whatever has an id or a name."""
        return RedirectResponse(self._found_at(q.strip()), 303)

    def _found_at(self, text: str) -> str:
        if not text:
            return "/flows"
        try:
            place = Place.of(text, self._views.topics, self._views.topic_prefix)
        except UsageError:
            return f"/flows/{quote(text, safe='')}"
        parts = [quote(place.topic, safe=""), place.partition, place.offset]
        return "/log/" + "/".join(str(part) for part in parts if part is not None)

    async def _wrong(self, request: Request, error: Exception) -> Response:
        status, says = _told(error)
        if status >= 500:
            _log.warning("a view failed", error=type(error).__name__)
        if request.url.path.endswith(".json"):
            return _json({"error": says}, status)
        return self._page("wrong.html", request, status, says=says, command="", json_link="", live_link="")

    def _page(self, template: str, request: Request, status: int, **told: Any) -> Response:
        return Response(self._rendered(template, request, **told), status, media_type="text/html")

    def _rendered(self, template: str, request: Request, **told: Any) -> str:
        return self._templates.get_template(template).render(
            path=request.url.path,
            params=request.query_params,
            addresses_link=_link(request.url.path, request, addresses="1"),
            link=partial(_link, request.url.path, request),
            link_to=partial(_link, request=request),
            **told,
        )


def _told(error: Exception) -> tuple[int, str]:
    match error:
        case HTTPException():
            return error.status_code, "There is no such page."
        case RequestValidationError():
            first = error.errors()[0]
            return 400, f"{first['loc'][-1]} is not usable: {first['msg']}."
        case TimeoutError():
            return 504, "This took too long, and was given up: ask for less, or use the command."
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return status, (str(error) or repr(error)).splitlines()[0]


def _shown(data: Mapping[str, Any], request: Request) -> Any:
    plain = json.loads(json.dumps(data, default=str))
    return plain if request.query_params.get("addresses") == "1" else masked(plain)


def _json(data: Any, status: int) -> Response:
    return Response(json.dumps(data, indent=2, default=str), status, media_type="application/json")


def _link(path: str, request: Request, **more: str | None) -> str:
    """Returns it with the parameters of this request, and more of them; less what is None."""
    told = dict(request.query_params) | more
    params = QueryParams({name: text for name, text in told.items() if text is not None})
    return f"{quote(path)}?{urlencode(list(params.multi_items()))}" if params else quote(path)
