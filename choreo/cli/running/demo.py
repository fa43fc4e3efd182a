"""`choreo demo`: the mission's story as a timeline of requests and of the events they caused."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import httpx2
import psycopg
import typer

from choreo.chassis.installed import require_services
from choreo.chassis.kafka.log_reader import LOG_UNREADABLE
from choreo.chassis.registry import all_topics
from choreo.demo import story
from choreo.demo.client import SHOP, Customer
from choreo.demo.screens import JsonScreen, Screen, TextScreen
from choreo.demo.story import TIMEOUT_SECONDS, Stage, Unexpected
from choreo.demo.timeline import Asked, EventReader, RecordingTransport, Timeline
from choreo.embedded.mail import read_maildir
from choreo.errors import Unavailable
from choreo.operations.acting.throwaway import ThrowawaySystem, asked_to_stop
from choreo.operations.reading.installation import observer_access, read_settings, running_system
from choreo.replay.trace.hops import Way, ways
from choreo.replay.trace.journals import JournalReader
from choreo.replay.trace.published_events import PublishedEvent, in_causal_order
from choreo.styles.composition import COLLABORATION, STYLES, has_kafka, require_style

T = TypeVar("T")


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead.")] = False,
    style: Annotated[
        str, typer.Option(metavar="|".join(STYLES), help="Of the system that is started.")
    ] = COLLABORATION,
) -> None:
    """Play the story and print it: each request, and beneath it the events it caused, as read from Kafka,
    with what each service did with them and how long every hop took.

    On the running system of this CHOREO_HOME and CHOREO_PORT_BASE; where none runs, on one that is started
    for the purpose and gone afterwards. Exits 1 if the system does not do what the story says.
    """
    require_style(style)
    require_services(SHOP)
    screen: Screen = JsonScreen() if as_json else TextScreen()
    with asked_to_stop(), _a_system(screen, style) as facts:
        held = asyncio.run(perform(the_story, facts, screen))
    if not held:
        raise typer.Exit(1)


async def the_story(acts: "Acts") -> None:
    """Every scene, in the order of the mission."""
    ada = await acts.scene(story.first_step)
    ada = await acts.scene(story.signed_in, ada)
    for scene in (
        story.account_appears,
        story.top_up,
        story.no_orders_yet,
        story.paid,
        story.too_dear,
        story.looks_back,
        story.to_the_last_cent,
    ):
        await acts.scene(scene, ada)
    bob = await acts.scene(story.another_customer)
    for money_case in (
        story.two_at_once,
        story.said_twice,
        story.bad_amounts,
        story.to_the_last_minor_unit,
        story.changes_their_mind,
    ):
        await acts.scene(money_case, bob)
    await acts.scene(story.nobody_elses, ada, bob)
    await acts.mails(ada)


async def perform(
    play: Callable[["Acts"], Awaitable[None]], facts: Mapping[str, Any], screen: Screen
) -> bool:
    """Whether every expectation held. `facts` are those of run.json. Raises `Unavailable`."""
    try:
        async with AsyncExitStack() as stack:
            timeline = Timeline()
            topics = all_topics(facts["topic_prefix"])
            events = None
            if has_kafka(facts["style"]):
                events = await stack.enter_async_context(EventReader(observer_access(facts), topics))
            services = {
                name: await stack.enter_async_context(
                    httpx2.AsyncClient(
                        base_url=facts["urls"][name],
                        transport=RecordingTransport(name, timeline.note),
                        timeout=30,
                        trust_env=False,
                    )
                )
                for name in facts["ports"]
            }
            acts = Acts(Stage(services, events), timeline, facts, screen)
            if events is None:
                screen.note(f"Style {facts['style']} keeps no events: what is told of is requests alone.")
            else:
                screen.legend()
            await play(acts)
            screen.end(f"The story holds: {acts.held} expectations, {acts.numbers} scenes.", held=True)
            return True
    except Unexpected as unexpected:
        screen.end(str(unexpected), held=False)
        return False
    except httpx2.HTTPStatusError as refused:
        answer = refused.response
        screen.end(
            f"{answer.request.method} {answer.request.url} was answered {answer.status_code}.", held=False
        )
        return False
    except (httpx2.TransportError, *LOG_UNREADABLE) as error:
        raise Unavailable(f"The story could not be played to its end: {error or repr(error)}.") from error


class Acts:
    """Plays scenes and shows each when it is over, whether its expectations held or not."""

    def __init__(self, stage: Stage, timeline: Timeline, facts: Mapping[str, Any], screen: Screen) -> None:
        self._stage, self._timeline, self._facts, self._screen = stage, timeline, facts, screen
        self._journals: JournalReader | None = JournalReader(facts["owner_urls"])
        self._said: list[str] = []
        self.held = self.numbers = 0
        stage.held = self._said.append

    async def scene(self, scene: Callable[..., Awaitable[T]], *people: Customer) -> T:
        self.numbers += 1
        self._screen.title(self.numbers, (scene.__doc__ or scene.__name__).splitlines()[0])
        try:
            played = await scene(self._stage, *people)
        except Exception:
            await self._show(timeout_seconds=0)
            raise
        await self._show(timeout_seconds=TIMEOUT_SECONDS)
        return played

    async def _show(self, timeout_seconds: float) -> None:
        """`timeout_seconds`: seconds in which every service must have read what is shown."""
        asked = self._timeline.take()
        events = self._stage.events
        flows = {request.flow: events.of(request.flow) for request in asked if request.flow and events}
        told = await self._ways([event for events in flows.values() for event in events], timeout_seconds)
        for request in asked:
            self._screen.request(request)
            if request.flow:
                self._show_flow(request, flows.pop(request.flow, []), told)
        for what in self._said:
            self._screen.holds(what)
        self.held += len(self._said)
        self._said.clear()

    def _show_flow(self, asked: Asked, events: Sequence[PublishedEvent], told: Mapping[UUID, Way]) -> None:
        types = {event.id: event.type for event in events}
        for depth, event in in_causal_order(events):
            cause = types.get(event.cause) if event.cause else None
            because = cause or f"{asked.method} {asked.path}"
            after_ms = max(0.0, 1000 * (event.at.timestamp() - asked.at))
            self._screen.event(told[event.id], depth, because, after_ms)

    async def _ways(self, events: Sequence[PublishedEvent], timeout_seconds: float) -> dict[UUID, Way]:
        """Told from Kafka alone where the databases cannot be read from here."""
        if self._journals and events:
            try:
                return ways(events, await self._journals.read(events, timeout_seconds))
            except psycopg.Error as error:
                self._journals = None
                why = str(error).partition("\n")[0]
                self._screen.note(f"The services' databases cannot be read, so hops are not told: {why}")
        return ways(events, {})

    async def mails(self, customer: Customer) -> None:
        """What was sent to the customer, where the mail server is the system's own."""
        if self._facts["maildir"] is None:
            self._screen.note(f"The mails went to {self._facts['smtp_url']}: look there.")
            return
        address = f"{customer.login}@example.com"
        mails = [mail for mail in read_maildir(Path(self._facts["maildir"])) if mail["To"] == address]
        for mail in mails:
            self._screen.mail(mail)
        self._stage.expect("every notification of Ada's was mailed once", len(mails), 3)
        await self._show(timeout_seconds=TIMEOUT_SECONDS)


@contextmanager
def _a_system(screen: Screen, style: str) -> Iterator[Mapping[str, Any]]:
    """What run.json says of the system that runs, or of one of our own."""
    facts = running_system(read_settings())
    if facts is not None:
        screen.note(f"Playing on the running system at {facts['urls']['order']}.")
        yield facts
        return
    with ThrowawaySystem(style=style) as system:
        screen.note("No system runs from here: starting one for the purpose.")
        screen.note(f"It was ready after {system.start():.1f} s.")
        yield system.run_file
        screen.note("Stopping it, and deleting what it kept.")
