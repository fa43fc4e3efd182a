"""A receiver of OpenTelemetry's protocol over HTTP, and what is asked of the traces that arrive."""

import gzip
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Told

KINDS = {
    Told.SPAN_KIND_SERVER: "request",
    Told.SPAN_KIND_INTERNAL: "transaction",
    Told.SPAN_KIND_PRODUCER: "publish",
    Told.SPAN_KIND_CONSUMER: "process",
    Told.SPAN_KIND_CLIENT: "mail",
}


@dataclass(frozen=True)
class Span:
    """As it came over the wire."""

    service: str
    trace: str
    id: str
    parent: str
    name: str
    kind: str
    begin_ms: float
    end_ms: float
    attributes: Mapping[str, Any] = field(compare=False)
    links: tuple[str, ...]

    @property
    def ms(self) -> float:
        return self.end_ms - self.begin_ms


@dataclass
class Receiver:
    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    is_away: bool = False
    """It answers that it has no time."""

    def of(self, trace: str) -> list[Span]:
        """Each once; whoever sends one again sends the same."""
        found = dict.fromkeys(span for span in self.spans if span.trace == trace)
        assert len({span.id for span in found}) == len(found)
        return [*found]


@contextmanager
def receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            answer = b"" if received.is_away else ExportTraceServiceResponse().SerializeToString()
            if not received.is_away:
                assert self.path == "/v1/traces"
                received.spans += spans_in(ExportTraceServiceRequest.FromString(body))
            self.send_response(400 if received.is_away else 200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def spans_in(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for of in request.resource_spans:
        resource = {one.key: one.value.string_value for one in of.resource.attributes}
        assert resource["service.namespace"] == "choreo"
        for scope in of.scope_spans:
            for span in scope.spans:
                yield Span(
                    service=resource["service.name"],
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    name=span.name,
                    kind=KINDS[span.kind],
                    begin_ms=span.start_time_unix_nano / 1e6,
                    end_ms=span.end_time_unix_nano / 1e6,
                    attributes={
                        one.key: one.value.string_value or one.value.int_value for one in span.attributes
                    },
                    links=tuple(link.span_id.hex() for link in span.links),
                )


ONE_ORDER = {
    ("order", "request"): 1,
    ("order", "transaction"): 2,
    ("billing", "process"): 1,
    ("billing", "transaction"): 1,
    ("order", "process"): 1,
    ("notification", "process"): 1,
    ("notification", "transaction"): 2,
    ("notification", "mail"): 1,
    ("order", "publish"): 1,
    ("billing", "publish"): 1,
}
"""That is confirmed. The notification's own fact is published besides, where there is Kafka."""


def assert_is_one_order(spans: list[Span], caller: str, events_are_kept: bool) -> None:
    """They are a tree over all services whose root is below who called."""
    told = {("notification", "publish"): 1} if events_are_kept else {}
    assert Counter((span.service, span.kind) for span in spans) == ONE_ORDER | told
    by_id = {span.id: span for span in spans}
    roots = [span for span in spans if span.parent not in by_id]
    assert [(root.parent, root.kind, root.name) for root in roots] == [(caller, "request", "PlaceOrder")]
    for span in spans:
        above, seen = span, set()
        while above.parent in by_id:
            assert above.id not in seen
            seen.add(above.id)
            above = by_id[above.parent]
            assert above.begin_ms <= span.begin_ms <= span.end_ms, (above, span)
        assert above is roots[0]
        if span.kind == "process":
            (link,) = span.links
            assert by_id[link].kind == "publish" and by_id[link].id == span.parent


def assert_bars_are_hops(spans: list[Span], flow: Mapping[str, Any]) -> None:
    """`flow` is one of `choreo trace --json`. Kafka's times, and so the hops to and from it, are whole ms."""
    by_id = {span.id: span for span in spans}
    compared = 0
    (asked,) = (span for span in spans if span.kind == "request")
    for entry in flow["journaled"]:  # where no events are kept
        (transaction,) = (
            span
            for span in spans
            if (span.service, span.name) == (entry["service"], f"transaction {entry['type']}")
        )
        assert transaction.begin_ms - asked.begin_ms == pytest.approx(entry["after_ms"], abs=0.01)
        compared += 1
    for event in everything(flow):
        published = by_id[event["id"].replace("-", "")[:16]]
        assert published.ms == pytest.approx(event["decided"]["outbox_ms"], abs=1)
        for heard in event["heard"]:
            (process,) = (
                one
                for one in spans
                if (one.service, one.kind, one.parent) == (heard["service"], "process", published.id)
            )
            (transaction,) = (one for one in spans if (one.kind, one.parent) == ("transaction", process.id))
            if "call_ms" in heard:
                began = by_id[published.parent].begin_ms
                assert process.begin_ms - began == pytest.approx(heard["call_ms"], abs=0.01)
            else:
                assert process.begin_ms - published.end_ms == pytest.approx(heard["broker_ms"], abs=1)
            assert transaction.begin_ms - process.begin_ms == pytest.approx(heard["consumer_ms"], abs=0.01)
            assert transaction.ms == pytest.approx(heard["transaction_ms"], abs=0.01)
            compared += 1
        if "waited_ms" in event["decided"]:
            (mail,) = (one for one in spans if one.kind == "mail")
            assert mail.ms == pytest.approx(event["decided"]["waited_ms"], abs=0.01)
            compared += 1
    assert compared == 4


def everything(of: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for event in of.get("events", of.get("followed_by", ())):
        yield event
        yield from everything(event)
