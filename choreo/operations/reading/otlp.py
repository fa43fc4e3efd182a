"""Spans to whoever takes OpenTelemetry's protocol over HTTP, with OpenTelemetry's SDK.

Whatever can be set is set as the SDK has it, by `OTEL_…` variables: endpoint, headers, certificates,
compression, sampler, attributes of the resource. Needs the extra `otel`.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from choreo.chassis.code_version import code_version
from choreo.operations.reading.traces import CollectorAway
from choreo.replay.trace.spans import Kind, Span, Trace

_AT_ONCE = 512
"""Spans in a request, as many as the SDK's own batches have."""
_EPOCH = datetime.fromtimestamp(0, UTC)
_KINDS = {
    Kind.REQUEST: SpanKind.SERVER,
    Kind.TRANSACTION: SpanKind.INTERNAL,
    Kind.PUBLISH: SpanKind.PRODUCER,
    Kind.PROCESS: SpanKind.CONSUMER,
    Kind.MAIL: SpanKind.CLIENT,
    Kind.TIMER: SpanKind.INTERNAL,
}


class Collector:
    """Takes spans. Each service is a resource of its own."""

    def __init__(self) -> None:
        self._exporter = OTLPSpanExporter()
        self._reasons = _Reasons()
        logging.getLogger("opentelemetry").addHandler(self._reasons)
        logging.getLogger("opentelemetry").propagate = False
        self._ids = _GivenIds()
        self._ended: list[ReadableSpan] = []
        self._providers: dict[str, TracerProvider] = {}

    def take(self, spans: Sequence[Span]) -> None:
        """Returns once it has those that the sampler does not leave out. Raises `CollectorAway`."""
        self._ended.clear()
        for span in spans:
            self._end(span)
        for first in range(0, len(self._ended), _AT_ONCE):
            self._reasons.first = ""
            if self._exporter.export(self._ended[first : first + _AT_ONCE]) is not SpanExportResult.SUCCESS:
                raise CollectorAway(self._reasons.first or "it did not say why")

    def close(self) -> None:
        """Gives up what is being sent."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _end(self, span: Span) -> None:
        """Begins it and ends it at its times, if its trace is one of those that are to be sent."""
        provider = self._provider(span.service)
        caller = _caller(span.trace)
        sampling = provider.sampler.should_sample(caller, int(span.trace.id, 16), span.name)
        if sampling.decision is not Decision.RECORD_AND_SAMPLE:
            return
        above = caller if span.kind is Kind.REQUEST else _within(span.trace, span.parent, TraceFlags.SAMPLED)
        self._ids.trace_id, self._ids.span_id = int(span.trace.id, 16), int(span.id, 16)
        told = provider.get_tracer("choreo", code_version()).start_span(
            span.name,
            context=above or Context(),
            kind=_KINDS[span.kind],
            attributes=dict(span.attributes),
            links=[Link(_context(span.trace, span.link, TraceFlags.SAMPLED))] if span.link else (),
            start_time=_nanoseconds(span.begin),
        )
        if span.error:
            told.set_status(StatusCode.ERROR, span.error)
        told.end(_nanoseconds(span.end))

    def _provider(self, service: str) -> TracerProvider:
        if service not in self._providers:
            resource = Resource.create({"service.namespace": "choreo", "service.name": service})
            provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
            provider.add_span_processor(_Kept(self._ended))
            self._providers[service] = provider
        return self._providers[service]


class _GivenIds(IdGenerator):
    """The next span has these ids, which were derived from what it is of."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class _Kept(SpanProcessor):
    """Keeps what has ended, so that whoever exports it hears whether it arrived."""

    def __init__(self, ended: list[ReadableSpan]) -> None:
        self._ended = ended

    def on_end(self, span: ReadableSpan) -> None:
        self._ended.append(span)


class _Reasons(logging.Handler):
    """Why an export failed: the SDK says that in its log alone, and at the end only that it gave up."""

    first = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage()


def _caller(trace: Trace) -> Context | None:
    if trace.caller is None:
        return None
    parent, _, flags = trace.caller.partition("-")
    return _within(trace, parent, int(flags, 16) & TraceFlags.SAMPLED)


def _within(trace: Trace, parent: str | None, flags: int) -> Context | None:
    if parent is None:
        return None
    return set_span_in_context(NonRecordingSpan(_context(trace, parent, flags)), Context())


def _context(trace: Trace, span: str, flags: int) -> SpanContext:
    return SpanContext(int(trace.id, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(flags))


def _nanoseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
