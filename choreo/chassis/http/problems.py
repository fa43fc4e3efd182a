"""RFC 9457 problem details: the one shape in which anything goes wrong over HTTP.

A detail is written by us. It never repeats what the client sent: it might be a password.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from choreo.chassis.http.answer import Answer

PROBLEM_JSON = "application/problem+json"
MOST_ERRORS_TOLD = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one part of a request: `place` is a JSON pointer or a query parameter's name."""

    kind: str
    place: str
    detail: str

    @classmethod
    def at(cls, pointer: str, detail: str) -> "Fault":
        return cls("pointer", pointer, detail)

    @classmethod
    def of_parameter(cls, name: str, detail: str) -> "Fault":
        return cls("parameter", name, detail)


class Problem(Exception):
    """Raise it anywhere below the edge, or render it with `answer()` to store it.

    `members` are added to the body (`balance="400.00"`), `headers` to the answer (`Retry-After`).
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.members = members

    def answer(self) -> Answer:
        content: dict[str, object] = {
            "type": f"urn:choreo:problem:{self.code}",
            "title": self.code.replace("_", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            content["errors"] = [
                {fault.kind: fault.place, "detail": fault.detail} for fault in self.errors[:MOST_ERRORS_TOLD]
            ]
        body = orjson.dumps(content | self.members, option=orjson.OPT_UTC_Z)
        return Answer(self.status, body, {"Content-Type": PROBLEM_JSON, **self.headers})


def malformed(code: str, detail: str) -> Problem:
    return Problem(400, code, detail)


def unauthorized(detail: str = "This needs a valid bearer token.", *, token_given: bool = False) -> Problem:
    challenge = 'Bearer error="invalid_token"' if token_given else "Bearer"
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def not_found(detail: str = "There is no such thing here.") -> Problem:
    return Problem(404, "not_found", detail)


def not_there_yet(detail: str) -> Problem:
    """Of what comes into being by itself."""
    return Problem(404, "not_found", detail, headers={"Retry-After": "1"})


def too_large(limit: int) -> Problem:
    # The rest of the body is not read, so the connection cannot be used again.
    detail = f"A request body may have {limit} bytes at most."
    return Problem(413, "body_too_large", detail, headers={"Connection": "close"})


def unsupported_media_type(expected: str) -> Problem:
    return Problem(
        415, "unsupported_media_type", f"The body must be {expected}, in UTF-8 and not compressed."
    )


def invalid(*errors: Fault) -> Problem:
    return Problem(
        422, "invalid_request", "The request is understood but not acceptable: see errors.", errors=errors
    )


def internal_error() -> Problem:
    return Problem(500, "internal_error", "Something went wrong here. It was logged.")


def unavailable(detail: str, *, code: str = "unavailable", retry_after: int = 1) -> Problem:
    return Problem(503, code, detail, headers={"Retry-After": str(retry_after)})


def of_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """A problem for an error that only has a status, such as one the framework raises."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Error"
    code = phrase.lower().replace(" ", "_").replace("-", "_")
    return Problem(status, code, f"{phrase}.", headers=headers)


SCHEMA: dict[str, object] = {
    "title": "Problem",
    "description": "RFC 9457 problem details. Some types add members of their own.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "pattern": "^urn:choreo:problem:[a-z_]+$"},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "pointer": {"type": "string", "description": "JSON pointer into the body, as a fragment"},
                    "parameter": {"type": "string", "description": "name of a query parameter"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
"""JSON Schema of a problem, for the OpenAPI documents."""
