"""What a long programme has shown: a page, a drawing, and each fault as a line of JSON."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from statistics import median

from choreo.chaos.results.screens import figures
from choreo.chaos.trial import Outcome, Timeline
from choreo.chassis.code_version import code_version
from choreo.machine import machine
from choreo.svg import drawing, text

_WIDTH, _LEFT, _RIGHT = 1200, 70, 1180
_BANDS = (50, 210), (240, 400)
"""Top and bottom: of what was answered, of what was unread."""
_POINTS = 500
"""So many at most are drawn of a line."""


@dataclass
class Report:
    """Written anew after each system, so that whoever breaks off has what there is."""

    directory: Path
    command: str
    outcomes: list[Outcome] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)

    def add(self, outcomes: Iterable[Outcome], timeline: Timeline) -> None:
        self.outcomes += outcomes
        self.timelines.append(timeline)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "chaos.md").write_text("\n".join(self._page()))
        (self.directory / "chaos.svg").write_text(timeline_of(self.outcomes, self.timelines))
        lines = (json.dumps({"fault": one.fault.name, **figures([one])}) for one in self.outcomes)
        (self.directory / "chaos.ndjson").write_text("".join(f"{line}\n" for line in lines))

    def _page(self) -> Iterator[str]:
        told, on = figures(self.outcomes), machine()
        recoveries = [one.recovery for one in self.outcomes]
        began = datetime.fromtimestamp(self.outcomes[0].struck_at, UTC)
        yield "# Chaos\n"
        yield f"`{self.command}`, {began:%Y-%m-%d}, {code_version()}, on {on['cores']} cores, {on['cpu']}.\n"
        yield "| | |\n|---|---|"
        yield f"| systems | {len(self.timelines)} |"
        yield f"| faults | {told['faults']}: {told['kills']} kills, {told['stops']} stops |"
        requests = ", ".join(f"{count:,} {name}" for name, count in told["requests"].items())
        yield f"| requests | {requests}; sent {told['attempts']:,} times |"
        yield f"| events | {told['events']:,}, and {told['repeats']:,} of them again |"
        yield f"| mails that came again | {told['repeated_mails']:,} |"
        yield f"| everything handled after | {_spread(recoveries)} |"
        yield f"| breaches of promises | {len(told['violations'])} |\n"
        yield "Handled: seconds from when nothing was in the way any more until all was: median,"
        yield "99th percentile, worst. The load goes on for a while then, and what it asks counts.\n"
        yield "![What was answered and what was unread, with the faults](chaos.svg)\n"
        yield "| Fault | Times | Kills | Handled after | Breaches |\n|---|---|---|---|---|"
        for name, alike in sorted(_by_name(self.outcomes).items()):
            broken = sum(len(one.violations) for one in alike)
            spread = _spread([one.recovery for one in alike])
            kills = sum(one.fault.kills for one in alike)
            yield f"| `{name}`: {alike[0].fault.sentence} | {len(alike)} | {kills} | {spread} | {broken} |"
        yield ""


def _by_name(outcomes: Iterable[Outcome]) -> Mapping[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        found[outcome.fault.name].append(outcome)
    return found


def _spread(seconds: Sequence[float]) -> str:
    return f"{median(seconds):.1f}, {percentile(seconds, 99):.1f}, {max(seconds):.1f}"


def percentile(numbers: Sequence[float], of_hundred: int) -> float:
    """The least of them that so many are not above (nearest rank)."""
    return sorted(numbers)[ceil(len(numbers) * of_hundred / 100) - 1]


def timeline_of(outcomes: Sequence[Outcome], timelines: Sequence[Timeline]) -> str:
    """An SVG: requests answered a second, records unread, and a line where each fault's load began."""
    begin = min(one.struck_at for one in outcomes)
    answered = [at for one in timelines for at in one.answered]
    lag = [one for timeline in timelines for one in timeline.lag]
    end = max([begin + 1, *answered, *(at for at, _ in lag)])
    step = max(1.0, (end - begin) / _POINTS)
    count = ceil((end - begin) / step) + 1
    rates, unread = [0.0] * count, [0.0] * count
    for at in answered:
        rates[int((at - begin) / step)] += 1 / step
    for at, records in lag:
        slot = max(0, int((at - begin) / step))
        unread[slot] = max(unread[slot], records)
    shapes = []
    for (top, bottom), name, values in zip(
        _BANDS, ("requests answered a second", "records unread"), (rates, unread), strict=True
    ):
        most = max(*values, 1.0)
        along, up = (_RIGHT - _LEFT) / (count - 1), (bottom - top) / most
        places = (f"{_LEFT + along * at:.1f},{bottom - up * value:.1f}" for at, value in enumerate(values))
        shapes += [
            text(_LEFT, top - 6, name),
            text(_LEFT - 8, top + 5, f"{most:.0f}", "end"),
            text(_LEFT - 8, bottom, "0", "end"),
            *(_mark(one, begin, end, top, bottom) for one in outcomes),
            f'<polyline points="{" ".join(places)}" stroke="#4a7db5" stroke-width="1.5"/>',
        ]
    shapes.append(text(_RIGHT, _BANDS[-1][1] + 20, f"{(end - begin) / 60:.0f} minutes", "end"))
    return drawing("Under faults: each line is one", _WIDTH, _BANDS[-1][1] + 35, shapes)


def _mark(outcome: Outcome, begin: float, end: float, top: int, bottom: int) -> str:
    x = _LEFT + (_RIGHT - _LEFT) * (outcome.struck_at - begin) / (end - begin)
    colour = ' style="stroke: #c0392b"' if outcome.violations else ""
    line = f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"{colour}>'
    return f"{line}<title>{outcome.fault.name}</title></line>"
