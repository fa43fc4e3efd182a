"""What if: the recorded requests alone, to services that hear what today's code decides.

`choreo.replay.verify.verify` gives each service the facts that were recorded, so that every divergence
stands for itself. Here the loop is closed: a fact that today's code decides otherwise goes to those who hear
it, and what they make of it goes on, until there is an outcome to hold against the recorded one.

What was recorded is the timetable. Requests come at their recorded time; a fact that was recorded is heard
where it was heard then, in the order of each service's journal; a new one is heard at once. So unchanged code
makes the very record again.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from choreo.chassis.service import Service
from choreo.collector import no_collector
from choreo.replay.sources.by_key import Key, read_by_key
from choreo.replay.sources.records import Source
from choreo.replay.verify.findings import Finding, Tally
from choreo.replay.verify.outcomes import Outcomes
from choreo.replay.verify.simulation import Difference, Simulation

_EVERY = 100
"""So many keys from one report of progress to the next."""


async def closed_loop(
    source: Source,
    services: Mapping[str, Service[Any]],
    progress: Callable[[str, int, int], None] | None = None,
    *,
    reads: bool = False,
) -> Tally:
    """Closes the loop of these services, whose journals must be in the source.

    `reads`: where a handler reads clock, chance or environment is found, too. `progress` is told what is
    done, how much of it, and of how much (0: nobody knows).
    """
    tell = progress or (lambda what, done, of: None)
    with no_collector():
        found = await read_by_key(source, services, lambda read: tell("reading", read, 0))
        tally = Tally(Counter(items=found.items))
        tally.findings = [Finding("incomplete", "", lacks) for lacks in found.lacks]
        if found.lacks:
            return tally
        simulation = Simulation(services, some_keys=source.cut.keys is not None, reads=reads)
        simulation.run_ahead(found.of_no_hearer)
        outcomes = Outcomes(source, simulation)
        await outcomes.read_rows()
        for number, name in enumerate(found):
            if name not in simulation.torn:
                _take(found.key(name), simulation, outcomes)
            if number % _EVERY == 0:
                tell("trying out keys", number, len(found))
        outcomes.finish(found)
    tally.findings = sorted([*simulation.findings, *outcomes.tally.findings], key=_by_origin)
    tally.counts += simulation.counts + outcomes.tally.counts
    tally.counts["keys"] = len(found)
    return tally


def _take(key: Key, simulation: Simulation, outcomes: Outcomes) -> None:
    """Once it returns nothing of the key is in memory, but for what services keep of all."""
    simulation.take(key)
    outcomes.add(key)
    simulation.forget_key()


def _by_origin(finding: Finding) -> tuple[int | str, ...]:
    """Sorts together what comes from the same step: that step, how it ended, the steps in between.

    That of which nothing can be said comes last.
    """
    origin = finding.origin if isinstance(finding, Difference) else None
    if origin is None:
        return (1,)
    is_origin = (finding.service, finding.event, finding.kind) == (origin["service"], origin["event"], "step")
    rank = 0 if is_origin else 1 if finding.kind == "state" else 2
    return 0, origin["time"], origin["event"], origin["service"], rank
