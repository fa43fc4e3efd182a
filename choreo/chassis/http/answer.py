"""An HTTP answer that is already rendered, so that the kernel can store it as the reply to a command."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import orjson
from pydantic import BaseModel

from choreo.chassis.transaction.inputs import Reply

JSON = "application/json"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer(Reply):
    """Status, body and headers, `Content-Type` among them. The edge adds the length and its own headers."""

    @classmethod
    def json(cls, status: int, content: object, headers: Mapping[str, str] = _NO_HEADERS) -> "Answer":
        """`content` is a pydantic model or what orjson takes; datetimes must carry a time zone."""
        if isinstance(content, BaseModel):
            body = content.__pydantic_serializer__.to_json(content)
        else:
            body = orjson.dumps(content, option=orjson.OPT_UTC_Z)
        return cls(status, body, {"Content-Type": JSON, **headers})

    def with_headers(self, headers: Mapping[str, str]) -> "Answer":
        """The same answer, saying more."""
        return Answer(self.status, self.body, {**self.headers, **headers})
