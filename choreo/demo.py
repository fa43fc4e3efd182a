"""`choreo demo`: the mission's story as a timeline of requests and of the events they caused."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import asdict
from email.message import EmailMessage
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import httpx
import psutil
import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.markup import escape

from choreo import story
from choreo.client import Customer
from choreo.errors import read_settings
from choreo.story import Stage, Unexpected
from choreo.throwaway import ThrowawaySystem, asked_to_stop
from choreo.timeline import Asked, EventReader, RecordingTransport, Seen, Timeline, clock, in_causal_order
from embedded.home import Home
from embedded.mail import read_maildir
from embedded.process import Unavailable
from events.catalog import TOPICS

T = TypeVar("T")

_UUID = re.compile(r"([0-9a-f]{8})(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BEGINNING = r"\1…"


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead.")] = False,
) -> None:
    """Play the story and print it: each request, and beneath it the events it caused, as read from Kafka.

    On the running system of this CHOREO_HOME and CHOREO_PORT_BASE; where none runs, on one that is started
    for the purpose and gone afterwards. Exits 1 if the system does not do what the story says.
    """
    screen: Screen = JsonScreen() if as_json else TextScreen()
    with asked_to_stop(), _a_system(screen) as facts:
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
    ):
        await acts.scene(money_case, bob)
    await acts.scene(story.nobody_elses, ada, bob)
    acts.mails(ada)


async def perform(
    play: Callable[["Acts"], Awaitable[None]], facts: Mapping[str, Any], screen: "Screen"
) -> bool:
    """Whether every expectation held. `facts` are those of run.json. Raises `Unavailable`."""
    try:
        async with AsyncExitStack() as stack:
            timeline = Timeline()
            topics = [facts["topic_prefix"] + topic for topic in TOPICS.values()]
            events = await stack.enter_async_context(EventReader(facts["bootstrap"], topics))
            services = {
                name: await stack.enter_async_context(
                    httpx.AsyncClient(
                        base_url=facts["urls"][name],
                        transport=RecordingTransport(name, timeline.note),
                        timeout=30,
                    )
                )
                for name in facts["ports"]
            }
            acts = Acts(Stage(services, events), timeline, facts, screen)
            await play(acts)
            screen.end(f"The story holds: {acts.held} expectations, {acts.numbers} scenes.", held=True)
            return True
    except Unexpected as unexpected:
        screen.end(str(unexpected), held=False)
        return False
    except httpx.HTTPStatusError as refused:
        answer = refused.response
        screen.end(
            f"{answer.request.method} {answer.request.url} was answered {answer.status_code}.", held=False
        )
        return False
    except (httpx.TransportError, KafkaError) as error:
        raise Unavailable(f"The story could not be played to its end: {error or repr(error)}.") from error


class Acts:
    """Plays scenes and shows each when it is over, whether its expectations held or not."""

    def __init__(self, stage: Stage, timeline: Timeline, facts: Mapping[str, Any], screen: "Screen") -> None:
        self._stage, self._timeline, self._facts, self._screen = stage, timeline, facts, screen
        self._said: list[str] = []
        self.held = self.numbers = 0
        stage.held = self._said.append

    async def scene(self, scene: Callable[..., Awaitable[T]], *people: Customer) -> T:
        self.numbers += 1
        self._screen.title(self.numbers, (scene.__doc__ or scene.__name__).splitlines()[0])
        try:
            return await scene(self._stage, *people)
        finally:
            self._show()

    def _show(self) -> None:
        shown: set[UUID] = set()
        for asked in self._timeline.take():
            self._screen.request(asked)
            if asked.flow and asked.flow not in shown:
                shown.add(asked.flow)
                events = self._stage.events.of(asked.flow)
                types = {event.id: event.type for event in events}
                for depth, event in in_causal_order(events):
                    cause = types.get(event.cause) if event.cause else None
                    because = cause or f"{asked.method} {asked.path}"
                    self._screen.event(event, depth, because, 1000 * (event.at - asked.at))
        for what in self._said:
            self._screen.holds(what)
        self.held += len(self._said)
        self._said.clear()

    def mails(self, customer: Customer) -> None:
        """What was sent to the customer, where the mail server is the system's own."""
        if self._facts["maildir"] is None:
            self._screen.note(f"The mails went to {self._facts['smtp_url']}: look there.")
            return
        address = f"{customer.login}@example.com"
        mails = [mail for mail in read_maildir(Path(self._facts["maildir"])) if mail["To"] == address]
        for mail in mails:
            self._screen.mail(mail)
        self._stage.expect("every notification of Ada's was mailed once", len(mails), 3)
        self._show()


class JsonScreen:
    """One JSON object per line; `kind` says what it is about."""

    def title(self, number: int, text: str) -> None:
        self._print("scene", number=number, title=text)

    def request(self, asked: Asked) -> None:
        told = asdict(asked) | {"at": clock(asked.at), "ms": round(asked.ms, 1)}
        self._print("request", **(told | {"flow": str(asked.flow) if asked.flow else None}))

    def event(self, event: Seen, depth: int, because: str, after_ms: float) -> None:
        told = asdict(event) | {"at": clock(event.at), "depth": depth, "because_of": because}
        self._print("event", **told, after_ms=round(after_ms, 1))

    def holds(self, what: str) -> None:
        self._print("expectation", says=what, holds=True)

    def mail(self, mail: EmailMessage) -> None:
        told = {name.lower().replace("-", "_"): mail[name] for name in ("To", "Subject", "Message-ID")}
        self._print("mail", **told, text=mail.get_content())

    def note(self, text: str) -> None:
        self._print("note", says=text)

    def end(self, text: str, *, held: bool) -> None:
        self._print("end", says=text, holds=held)

    def _print(self, kind: str, **facts: Any) -> None:
        print(json.dumps({"kind": kind, **facts}, default=str), flush=True)


class TextScreen:
    """For people: in colour on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def title(self, number: int, text: str) -> None:
        self._console.print(f"\n[bold]{number}. {escape(text)}[/]")

    def request(self, asked: Asked) -> None:
        colour = "green" if asked.status < 400 else "yellow"
        again = f"  (asked {asked.times} times)" if asked.times > 1 else ""
        what = escape(f"{asked.service:<13}{asked.method:<5}{_UUID.sub(_BEGINNING, asked.path)}")
        self._console.print(f"  {what:<46} [{colour}]{asked.status}[/] {asked.ms:7.1f} ms{again}")

    def event(self, event: Seen, depth: int, because: str, after_ms: float) -> None:
        name = f"{'   ' * depth}└─ {event.type}"
        place = escape(f"{event.topic}[{event.partition}] @{event.offset}")
        self._console.print(
            f"    [cyan]{name:<28}[/] {place:<28} +{after_ms:6.1f} ms  [dim]because of {escape(because)}[/]"
        )

    def holds(self, what: str) -> None:
        self._console.print(f"    [green]✓[/] [dim]{escape(what)}[/]")

    def mail(self, mail: EmailMessage) -> None:
        self._console.print(f"\n  [bold]Mail to {escape(mail['To'])}: {escape(mail['Subject'])}[/]")
        for line in mail.get_content().splitlines():
            self._console.print(f"    {escape(line)}")

    def note(self, text: str) -> None:
        self._console.print(escape(text))

    def end(self, text: str, *, held: bool) -> None:
        self._console.print(f"\n[bold {'green' if held else 'red'}]{escape(text)}[/]")


Screen = JsonScreen | TextScreen


@contextmanager
def _a_system(screen: Screen) -> Iterator[Mapping[str, Any]]:
    """What run.json says of the system that runs, or of one of our own."""
    facts = _running_system()
    if facts is not None:
        screen.note(f"Playing on the running system at {facts['urls']['order']}.")
        yield facts
        return
    with ThrowawaySystem() as system:
        screen.note("No system runs from here: starting one for the purpose.")
        screen.note(f"It was ready after {system.start():.1f} s.")
        yield system.run_file
        screen.note("Stopping it, and deleting what it kept.")


def _running_system() -> dict[str, Any] | None:
    try:
        facts: dict[str, Any] = json.loads((Home(read_settings()).path / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts if psutil.pid_exists(facts["pid"]) else None
