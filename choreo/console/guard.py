"""What every request to the console passes, and what every answer says to the browser."""

from collections.abc import Iterable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from choreo.chassis.http.headers import Hosts, read
from choreo.chassis.http.problems import Problem, of_status

_METHODS = ("GET", "HEAD")
POSTS = ("/verify/start", "/verify/cancel", "/whole/start", "/whole/cancel")
"""All that is more than a look."""
_MOST_BYTES = 8192
"""Of an address, and of what a button sends."""
_ON_EVERY_ANSWER = [
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),  # with `no-referrer` a browser does not say whose page posts
    (b"x-content-type-options", b"nosniff"),
]


class Guard:
    """Lets nothing through but a look, by a name that is ours, and what a button of ours asks for: no page of
    a stranger's gets at it.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = Hosts(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_ON_EVERY_ANSWER]
            await send(message)

        try:
            read(scope["headers"])
            self._hosts.check(scope["headers"], scope["http_version"], any_name=False)
            if len(scope["raw_path"]) + len(scope["query_string"]) > _MOST_BYTES:
                raise of_status(414)
            if scope["method"] == "POST" and scope["path"] in POSTS:
                _check_origin(scope["headers"])
                _check_length(scope["headers"])
            elif scope["method"] not in _METHODS:
                raise of_status(405, {"Allow": ", ".join(_METHODS)})
        except Problem as problem:
            answer = problem.answer()
            await Response(answer.body, answer.status, answer.headers)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)


def _check_origin(pairs: Sequence[tuple[bytes, bytes]]) -> None:
    """403 for what no page of this very console has sent: a browser says of each POST whose page it is."""
    told = read(pairs)
    if told.get(b"origin", b"").partition(b"://")[2] != told.get(b"host"):
        raise of_status(403)


def _check_length(pairs: Sequence[tuple[bytes, bytes]]) -> None:
    """413 for what is longer than a form of ours, or does not say how long it is."""
    told = read(pairs)
    length = told.get(b"content-length", b"0")
    if b"transfer-encoding" in told or not length.isdigit() or int(length) > _MOST_BYTES:
        raise of_status(413)
