"""`choreo verify --shuffle`: whether it matters which of two topics a service heard first."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from choreo.chassis.registry import service_names, services
from choreo.operations.reading.replay_source import reading, whole
from choreo.progress import telling
from choreo.replay.sources.records import Source
from choreo.replay.verify.shuffle import Race, Tally
from choreo.replay.verify.shuffle import shuffle as shuffled
from choreo.terminal import print_line

_SHOWN = 20
_DIFFERENCES = 3
_KINDS = ("keys", "gaps", "orders")
_VERDICTS = {0: "no order matters", 1: "race", 3: "incomplete"}


def shuffle(file: Path | None, names: Sequence[str], shuffles: int, *, as_json: bool) -> None:
    """Prints what it found and exits."""
    since = time.monotonic()
    with reading():
        tally = asyncio.run(_tally(file, names, shuffles))
    seconds = time.monotonic() - since
    if as_json:
        print(json.dumps(_as_dict(tally, file, shuffles, seconds), indent=2, default=str))
    else:
        _print(tally, file, shuffles, seconds)
    raise typer.Exit(tally.exit_code)


async def _tally(file: Path | None, names: Sequence[str], shuffles: int) -> Tally:
    async with whole(file) as source:
        return await tally_of(source, names, shuffles)


async def tally_of(source: Source, names: Sequence[str] = (), shuffles: int = 20) -> Tally:
    """Shuffles; says how far it is, where that takes long."""
    known = services(source.cut.settings)
    hearing = {name: known[name] for name in names or known if known[name].consumes}
    chosen = {name: service for name, service in hearing.items() if name in source.cut.services}
    with telling() as tell:
        tally = await shuffled(source, chosen, shuffles, tell)
    tally.lacks += [f"the journal of {name} is not recorded" for name in hearing if name not in chosen]
    return tally


def _print(tally: Tally, file: Path | None, shuffles: int, seconds: float) -> None:
    for race in tally.races[:_SHOWN]:
        _print_race(race, file)
    for lack in tally.lacks[:_SHOWN]:
        print_line(f"incomplete: {lack}")
    if (more := len(tally.races[_SHOWN:]) + len(tally.lacks[_SHOWN:])) > 0:
        print(f"... and {more} more: --json prints all")
    print(f"{_VERDICTS[tally.exit_code]}: {shuffles} shuffles, seeds 1 to {shuffles}, in {seconds:.1f} s")
    print(f"  {'':<12}" + "".join(f"{kind:>12}" for kind in _KINDS))
    for name in service_names():
        if counts := [tally.counts[f"{name} {kind}"] for kind in _KINDS if f"{name} keys" in tally.counts]:
            print(f"  {name:<12}" + "".join(f"{count:>12}" for count in counts))


def _print_race(race: Race, file: Path | None) -> None:
    print_line(f"{race.service}: race: it matters which of two facts of key {race.key} was heard first")
    for name, side in (("first", race.first), ("second", race.second)):
        print_line(f"  {name:<9} {side.type} {side.id} {side.at} {side.time}  {side.handler}")
    print(f"  seed      {race.seed}")
    for difference in race.differences[:_DIFFERENCES]:
        print_line(f"  differs   {difference.what}")
        print_line(f"  recorded  {json.dumps(difference.recorded, default=str)}")
        print_line(f"  exchanged {json.dumps(difference.exchanged, default=str)}")
    if (more := len(race.differences) - _DIFFERENCES) > 0:
        print(f"  ... and {more} more")
    print(f"  again     {_again(race, file)}")


def _again(race: Race, file: Path | None) -> str:
    """Says which command shows both steps."""
    return (
        f"choreo replay {file or 'live'} --service {race.service} --key {race.key} --until {race.second.id}"
    )


def _as_dict(tally: Tally, file: Path | None, shuffles: int, seconds: float) -> dict[str, Any]:
    return {
        "verdict": _VERDICTS[tally.exit_code],
        "races": [asdict(race) | {"again": _again(race, file)} for race in tally.races],
        "incomplete": tally.lacks,
        "shuffles": shuffles,
        "counts": tally.counts,
        "seconds": seconds,
    }
