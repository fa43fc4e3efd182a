"""Flows and records as dictionaries: what `--json` prints and what the console shows."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from choreo.replay.sources.recording import pack_record
from choreo.replay.sources.rows import plain
from choreo.replay.trace.flows import Listed, gaps_of, state_of, took_ms
from choreo.replay.trace.hops import Hearing, Hop, Origin, Way
from choreo.replay.trace.journals import JournalRow
from choreo.replay.trace.log import LogPage, RecordRead
from choreo.replay.trace.published_events import PublishedEvent
from choreo.replay.trace.trace import Node, Tree


def trace_as_dict(id: str, trees: Sequence[Tree], left_out: int) -> dict[str, Any]:
    """The shape is in docs/trace.md."""
    return {"id": id, "left_out": left_out, "flows": [_flow(tree) for tree in trees]}


def flows_as_dict(found: Listed) -> dict[str, Any]:
    """The shape is in docs/flows.md."""
    until = plain(found.next_until) if found.next_until else None
    return {
        "flows": [_listed(tree) for tree in found.flows],
        "looked_at": found.looked_at,
        "next_until": until,
    }


def log_as_dict(page: LogPage, records: Sequence[RecordRead]) -> dict[str, Any]:
    """The shape is in docs/flows.md."""
    return {
        "records": [_record(one) for one in records],
        "looked_at": page.looked_at,
        "older": page.older,
        "newer": page.newer,
    }


def _record(read: RecordRead) -> dict[str, Any]:
    record = read.record
    heard = [
        hearing_as_dict(one.hearing)
        | {
            "at": one.entry and plain(one.entry.decided_at),
            "error": one.entry and one.entry.error,
            "source_line": one.entry and one.entry.source_line,
        }
        for one in read.heard
    ]
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "at": clock(record.timestamp / 1000),
        "at_is": "appended" if record.appended else "created",
        "raw": orjson.loads(pack_record(record.record)),
        "event": read.event and event_as_dict(read.event),
        "not_an_event": read.not_an_event or None,
        "decided": origin_as_dict(read.origin),
        "heard": heard,
    }


def _listed(tree: Tree) -> dict[str, Any]:
    return {
        **_begun(tree),
        "began_at": plain(tree.began_at),
        "took_ms": round(took_ms(tree), 3),
        "state": state_of(tree),
        "events": [_in_short(node) for _, node in tree.everything()],
        "missing": [asdict(gap) for gap in gaps_of(tree)],
    }


def _in_short(node: Node) -> dict[str, Any]:
    event = node.way.event
    return {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "data": event.data,
        "after_ms": round(node.after_ms, 3),
    }


def _flow(tree: Tree) -> dict[str, Any]:
    return {
        **_begun(tree),
        "missing": [asdict(gap) for gap in tree.gaps],
        "events": [_node(node) for node in tree.nodes],
        "journaled": [
            {
                "service": service,
                "type": entry.type,
                "id": entry.id,
                "outcome": entry.outcome,
                "after_ms": round(after_ms(tree, entry), 3),
            }
            for service, entry in tree.journaled
        ],
    }


def _begun(tree: Tree) -> dict[str, Any]:
    asked = tree.asked
    return {
        "flow": tree.flow,
        "key": tree.key,
        "began_at": clock(tree.began_at.timestamp()),
        "asked": asked
        and {
            "service": tree.service,
            "type": asked.type,
            "outcome": asked.outcome,
            "refusal": asked.refusal,
        },
    }


def after_ms(tree: Tree, entry: JournalRow) -> float:
    return max(0.0, (entry.decided_at - tree.began_at) / timedelta(milliseconds=1))


def _node(node: Node) -> dict[str, Any]:
    return {
        **way_as_dict(node.way),
        "after_ms": round(node.after_ms, 3),
        "missing": [asdict(gap) for gap in node.gaps],
        "followed_by": [_node(child) for child in node.children],
    }


def way_as_dict(way: Way) -> dict[str, Any]:
    """An event, how it was decided and what each service did with it; times in milliseconds."""
    heard = [hearing_as_dict(hearing) for hearing in way.hearings]
    return event_as_dict(way.event) | {"decided": origin_as_dict(way.origin), "heard": heard}


def event_as_dict(event: PublishedEvent) -> dict[str, Any]:
    appended_at = clock(event.appended_at.timestamp()) if event.appended_at else None
    return asdict(event) | {"at": clock(event.at.timestamp()), "appended_at": appended_at}


def origin_as_dict(origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    return {"service": origin.service, "input": origin.input, **_by_name(origin.hops)}


def hearing_as_dict(hearing: Hearing) -> dict[str, Any]:
    return {
        "service": hearing.service,
        "offset": hearing.offset,
        "outcome": hearing.outcome,
        **_by_name(hearing.hops),
        "leads_to": hearing.leads_to,
    }


def _by_name(hops: tuple[Hop, ...]) -> dict[str, float | None]:
    return {f"{hop.name}_ms": None if hop.ms is None else round(hop.ms, 3) for hop in hops}


def clock(seconds: float) -> str:
    """RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
