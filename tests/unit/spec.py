"""Given these facts, when this command, then these facts: for any service's decide, evolve and react.

It goes through the very step the kernel takes, without its database. Each input comes a second later.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from choreo.chassis.transaction.step import Decider, Outcome, hear, obey
from choreo.message.catalog import SOURCE_OF_TYPE
from choreo.message.decider import Command, Refusal
from choreo.message.envelope import Cause, Event, derived_id
from choreo.message.fact import Fact

S = TypeVar("S")
F = TypeVar("F", bound=Fact)

START = datetime(2030, 1, 1, tzinfo=UTC)


def request(number: int = 1) -> Cause:
    """The cause of a command that somebody sent: the root of a flow."""
    return Cause.root(derived_id("request", number))


def event(fact: F, number: int) -> Event[F]:
    """The `number`-th event of a history, caused by nothing in it."""
    flow = derived_id("flow", number)
    return Event(
        id=derived_id("history", number),
        source=SOURCE_OF_TYPE[type(fact).__name__],
        time=START + timedelta(seconds=number),
        key=fact.key,
        sequence=number,
        correlation_id=flow,
        causation_id=None,
        trace_id=flow.hex,
        data=fact,
    )


@dataclass(frozen=True)
class Spec(Generic[S]):
    """A service and where it has come to. Every method gives another one and leaves this one as it is."""

    decider: Decider[S]
    state: S
    history: tuple[Event[Fact], ...] = ()
    """Everything applied, heard or own, in order."""
    decided: tuple[Fact, ...] = ()
    """By the latest `when` or `heard`."""
    refused: Refusal | None = None

    @property
    def now(self) -> datetime:
        return START + timedelta(seconds=len(self.history) + 1)

    def given(self, *facts: Fact | Event[Fact]) -> "Spec[S]":
        """These were applied before. Whatever they moved the service to decide is not decided again."""
        spec = self._listening()
        for fact in facts:
            applied = spec._enveloped(fact)
            state = spec.decider.applied(spec.state, applied)
            spec = replace(spec, state=state, history=(*spec.history, applied))
        return spec

    def heard(self, *facts: Fact | Event[Fact]) -> "Spec[S]":
        spec = self._listening()
        for fact in facts:
            applied = spec._enveloped(fact)
            step = hear(spec.decider, spec.state, applied, spec.now, len(spec.history))
            spec = spec._after(applied, step=step)
        return spec

    def when(self, *commands: Command) -> "Spec[S]":
        spec = self._listening()
        for command in commands:
            spec = spec._after(step=obey(spec.decider, spec.state, command, spec.now, len(spec.history)))
        return spec

    def then(self, *facts: Fact) -> "Spec[S]":
        """Exactly these were decided, in this order."""
        assert (list(self.decided), self.refused) == (list(facts), None)
        return self

    def then_nothing(self) -> "Spec[S]":
        return self.then()

    def then_refused(self, refusal: Refusal) -> "Spec[S]":
        assert (list(self.decided), self.refused) == ([], refusal)
        return self

    def _listening(self) -> "Spec[S]":
        return replace(self, decided=(), refused=None)

    def _enveloped(self, fact: Fact | Event[Fact]) -> Event[Fact]:
        number = len(self.history) + 1
        return replace(fact if isinstance(fact, Event) else event(fact, number), applied_sequence=number)

    def _after(self, *heard: Event[Fact], step: Outcome[S]) -> "Spec[S]":
        return replace(
            self,
            state=step.state,
            history=(*self.history, *heard, *step.events),
            decided=(*self.decided, *(event.data for event in step.events)),
            refused=step.refusal,
        )
