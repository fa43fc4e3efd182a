"""Pages of a list, newest first, and what a query may ask of them."""

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Column, Result, Select
from sqlalchemy import Row as DatabaseRow
from sqlalchemy.ext.asyncio import AsyncEngine

from choreo.chassis.http.problems import Fault, invalid

LONGEST_WAIT = 30
MOST_ITEMS = 200
DEFAULT_ITEMS = 50
MOST_PARAMETERS = 100
UUID_FORM = re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")

Item = TypeVar("Item", bound=BaseModel)
Row = TypeVar("Row")


class Page(BaseModel, Generic[Item]):
    items: list[Item]
    next: str | None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """So many items, of those whose sequence is below `before` if it is given."""

    limit: int = DEFAULT_ITEMS
    before: int | None = None

    async def rows(
        self, engine: AsyncEngine, query: Select[Any], sequence: Column[int]
    ) -> Sequence[DatabaseRow[Any]]:
        """Newest first, and one more than is shown: it tells whether there is a next page."""
        if self.before is not None:
            query = query.where(sequence < self.before)
        async with engine.connect() as conn:
            found: Result[Any] = await conn.execute(query.order_by(sequence.desc()).limit(self.limit + 1))
            return found.all()

    def page(
        self, rows: Sequence[Row], *, item: Callable[[Row], Item], sequence: Callable[[Row], int]
    ) -> Page[Item]:
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        return Page(items=[item(row) for row in shown], next=cursor(sequence(shown[-1])) if more else None)


def cursor(sequence: int) -> str:
    """Opaque to clients: the sequence of the last item they saw."""
    return base64.urlsafe_b64encode(str(sequence).encode()).decode().rstrip("=")


def sequence_of(text: str) -> int:
    """The reverse of `cursor`; 422 for anything that `cursor` would not have written."""
    try:
        digits = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        digits = b""
    if re.fullmatch(rb"0|[1-9][0-9]{0,18}", digits):
        sequence = int(digits)
        if sequence < 2**63 and cursor(sequence) == text:
            return sequence
    raise invalid(Fault.of_parameter("cursor", "This is not a cursor of ours."))


class Query:
    """The parameters of a query string. Unknown ones are ignored, whatever they hold; 422 for too many."""

    def __init__(self, raw: bytes) -> None:
        if raw.count(b"&") > MOST_PARAMETERS:
            raise invalid(Fault.of_parameter("", f"At most {MOST_PARAMETERS} parameters are read."))
        pairs = parse_qsl(raw.decode("ascii", "replace"), keep_blank_values=True) if raw else []
        self._values: Mapping[str, str] = dict(pairs)
        self._names = [name for name, _ in pairs]

    def text(self, name: str) -> str | None:
        if self._names.count(name) > 1:
            raise invalid(Fault.of_parameter(name, "This may be given once."))
        return self._values.get(name)

    def integer(self, name: str, *, least: int, most: int, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not re.fullmatch(r"0|[1-9][0-9]{0,8}", text) or not least <= int(text) <= most:
            raise invalid(Fault.of_parameter(name, f"This must be an integer from {least} to {most}."))
        return int(text)

    def wait(self) -> int:
        """Seconds to wait for what is asked about; 0 for an answer at once."""
        return self.integer("wait", least=0, most=LONGEST_WAIT, default=0)

    def flow(self) -> UUID | None:
        """Whose traces here are waited for."""
        text = self.text("flow")
        if text is None:
            return None
        if not UUID_FORM.fullmatch(text):
            raise invalid(Fault.of_parameter("flow", "This must be a Flow-Id, as an answer had it."))
        return UUID(text)

    def page(self) -> PageRequest:
        limit = self.integer("limit", least=1, most=MOST_ITEMS, default=DEFAULT_ITEMS)
        before = self.text("cursor")
        return PageRequest(limit, None if before is None else sequence_of(before))
