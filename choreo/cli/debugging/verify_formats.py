"""How a verification looks: text for people, JSON for programs, JUnit XML for build servers."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from choreo.chassis.registry import descriptions, service_names
from choreo.chassis.service import End
from choreo.message.catalog import FACT_OF_TYPE
from choreo.replay.sources.telling import telling
from choreo.replay.verify.findings import Finding
from choreo.replay.verify.report import Report
from choreo.replay.verify.simulation import Difference
from choreo.terminal import print_line

_SHOWN = 20
_SHOWN_IN_CLOSED_LOOP = 10
"""Origins, and of each so many of the differences that come from it."""
_SHORT = 60
"""So long a text is printed whole."""
_CONTEXT = 20
_HANGING = 12
"""The column in which values begin."""
_NONE = object()


def print_report(report: Report, file: Path | None) -> None:
    unstable = {id(finding) for finding in report.unstable}
    kinds_of_it = _alike([*report.unstable, *report.findings])
    for first, *others in kinds_of_it[:_SHOWN]:
        print_finding(first, "not deterministic" if id(first) in unstable else first.kind)
        if others:
            print_line(f"  alike     {_count_of((first, *others))}: --json prints them", _HANGING)
        if first.service:
            print(f"  again     {_again(first, file)}")
    if (more := len(kinds_of_it) - _SHOWN) > 0:
        print(f"... and {more} more kinds: --json prints all")
    _print_allowed(report)
    items = report.counts.get("items", 0)
    rate = f", {items / report.seconds:.0f}/s" if report.seconds else ""
    print(f"{report.verdict}: {items} items in {report.seconds:.1f} s{rate}")
    for why in report.absent.values():
        print_line(f"  {why}")
    kinds = ("inputs", "steps", "decisions", "records", "rows")
    print(f"  {'':<12}" + "".join(f"{kind:>12}" for kind in kinds))
    for name in service_names():
        counts = [report.counts.get(f"{name} {kind}") for kind in kinds]
        if any(count is not None for count in counts):
            print(f"  {name:<12}" + "".join(f"{count or 0:>12}" for count in counts))


def _alike(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Puts together what came through the same line and differs in the same things, the earliest first."""
    found: dict[Any, list[Finding]] = {}
    for finding in findings:
        differing = _names(_differing(finding.expected, finding.got))
        kind = finding.kind, finding.service, finding.type, finding.handler or finding.says
        found.setdefault((*kind, finding.table, finding.column, differing), []).append(finding)
    return list(found.values())


def _count_of(alike: Sequence[Finding]) -> str:
    """`61 keys, all through billing_service/decide.py:60`."""
    keys = len({finding.key for finding in alike})
    count = f"{keys} keys" if keys == len(alike) else f"{len(alike)} findings of {keys} keys"
    return f"{count}, all through {alike[0].handler}" if alike[0].handler else count


def _differing(expected: Any, got: Any) -> tuple[Any, Any]:
    """Leaves out what is the same on both sides: of objects and lists by part, of long texts at both ends."""
    if isinstance(expected, str) and isinstance(got, str):
        return _parting(expected, got)
    if isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        parted = [_differing(*pair) for pair in zip(expected, got, strict=True) if pair[0] != pair[1]]
        return [one for one, _ in parted], [other for _, other in parted]
    if not (isinstance(expected, dict) and isinstance(got, dict)):
        return expected, got
    names = [name for name in {**expected, **got} if expected.get(name, _NONE) != got.get(name, _NONE)]
    pairs = {name: _differing(expected.get(name, _NONE), got.get(name, _NONE)) for name in names}
    return tuple(
        {name: pair[side] for name, pair in pairs.items() if pair[side] is not _NONE} for side in (0, 1)
    )  # type: ignore[return-value]


def _parting(one: str, other: str) -> tuple[str, str]:
    """Cuts off, but for a few characters, what two long texts begin and end with."""
    shorter = min(len(one), len(other))
    if shorter <= _SHORT:
        return one, other
    begin = next((at for at in range(shorter) if one[at] != other[at]), shorter)
    end = next((at for at in range(shorter - begin) if one[-1 - at] != other[-1 - at]), shorter - begin)
    begin, end = max(0, begin - _CONTEXT), max(0, end - _CONTEXT)
    return _within(one, begin, end), _within(other, begin, end)


def _within(text: str, begin: int, end: int) -> str:
    return f"{'…' if begin else ''}{text[begin : len(text) - end]}{'…' if end else ''}"


def _names(pair: tuple[Any, Any]) -> tuple[str, ...]:
    """Returns the names of what differs, as paths; none where one side is no object."""
    expected, got = pair
    if not (isinstance(expected, dict) and isinstance(got, dict)):
        return ()
    return tuple(
        "/".join((name, *_names((expected.get(name), got.get(name))))) for name in {**expected, **got}
    )


def _compared(expected: Any, got: Any) -> tuple[str, str]:
    """Writes what differs; of decisions that are not of one type, their amounts and reasons."""
    if _are_decisions(expected) and _are_decisions(got) and _types(expected) != _types(got):
        return _decisions(expected), _decisions(got)
    recorded, replayed = _differing(expected, got)
    return json.dumps(recorded, ensure_ascii=False), json.dumps(replayed, ensure_ascii=False)


def _are_decisions(value: Any) -> bool:
    """Tells whether these are facts or a refusal, as JSON has them, or none."""
    return all(isinstance(one, dict) and "type" in one for one in _as_list(value))


def _types(decisions: Any) -> list[str]:
    return [one["type"] for one in _as_list(decisions)]


def _decisions(decisions: Any) -> str:
    told = []
    for one in _as_list(decisions):
        words = ", ".join(f"{name} {value}" for name, value in one.items() if name != "type")
        if one["type"] in FACT_OF_TYPE:
            words = telling(one["type"], one.get("data", one))
        told.append(f"{one['type']} {words}".rstrip())
    return "; ".join(told) or "nothing"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def print_finding(finding: Finding, kind: str, sides: tuple[str, str] = ("recorded", "replayed")) -> None:
    print_line(f"{finding.service or 'stream'}: {kind}: {finding.says}")
    _print_whereabouts(finding)
    if finding.kind == "effect":
        if finding.got:
            print_line(f"  output    {json.dumps(finding.got)}")
    elif finding.expected is not None or finding.got is not None:
        compared = _compared(finding.expected, finding.got)
        for side, value, known in zip(sides, compared, (finding.expected, finding.got), strict=True):
            if known is not None or _are_decisions(finding.expected or finding.got):
                print_line(f"  {side:<9} {value}", _HANGING)


def _print_whereabouts(finding: Finding) -> None:
    whereabouts = {
        "handler": " → ".join(finding.lines) or finding.handler,
        "parts": finding.parts,
        "at": finding.at,
        "key": finding.key,
    }
    for name, value in whereabouts.items():
        if value:
            print_line(f"  {name:<9} {value}", _HANGING)


def _print_allowed(report: Report) -> None:
    by_reason: dict[str, list[Finding]] = {}
    for finding, allowance in report.allowed:
        by_reason.setdefault(allowance.reason, []).append(finding)
    for reason, found in by_reason.items():
        count = f"{len(found)} findings, such as " if len(found) > 1 else ""
        print_line(f"{found[0].service}: allowed ({reason}): {count}{found[0].says}")
    for idle in report.idle:
        print_line(f"nothing matches the allowed change: {idle.reason}")


def print_closed_loop(report: Report, file: Path | None) -> None:
    """Prints each divergence with what follows from it, and then how much that is of all."""
    origins = [list(found) for _, found in groupby(report.findings, key=_origin)]
    kinds_of_it = _alike([found[0] for found in origins])
    by_first = {id(found[0]): found for found in origins}
    for alike in kinds_of_it[:_SHOWN_IN_CLOSED_LOOP]:
        first, *others = by_first[id(alike[0])]
        _print_difference(first, file)
        if len(alike) > 1:
            print_line(f"  alike     {_count_of(alike)}: --json prints them", _HANGING)
        for finding in others[:_SHOWN_IN_CLOSED_LOOP]:
            _print_difference(finding, file, follows=bool(_origin(first)[1]))
        if (more := len(others) - _SHOWN_IN_CLOSED_LOOP) > 0:
            print(f"  ... and {more} more: --json prints all")
    if (more := len(kinds_of_it) - _SHOWN_IN_CLOSED_LOOP) > 0:
        print(f"... and {more} more kinds: --json prints all")
    for finding in report.unstable[:_SHOWN_IN_CLOSED_LOOP]:
        print_line(f"{finding.service}: not deterministic: {finding.says} {finding.handler}".rstrip())
    _print_allowed(report)
    counts = Counter(report.counts)
    print(f"{report.verdict}: {counts['inputs']} inputs, {counts['keys']} keys in {report.seconds:.1f} s")
    for why in report.absent.values():
        print_line(f"  {why}")
    if counts["keys"]:
        gone, other, new = (counts[f"facts {what}"] for what in ("gone", "other", "new"))
        print_line(f"  {'facts':<28}{counts['facts']:>8}  {gone} no longer decided, {other} other, {new} new")
        for service, table in _ends():
            what, otherwise = f"{service} {table}", counts[f"{service} {table} otherwise"]
            print(f"  {what:<28}{counts[what]:>8}  {otherwise} otherwise")


def _origin(finding: Finding) -> tuple[str, str]:
    origin = finding.origin if isinstance(finding, Difference) else None
    return (origin["service"], origin["event"]) if origin else ("", "")


def _print_difference(finding: Finding, file: Path | None, *, follows: bool = False) -> None:
    """`follows` says that it follows from the one printed above it."""
    indent = "  " if follows else ""
    kind = "incomplete: " if finding.kind == "incomplete" else ""
    print_line(f"{'  so in ' if follows else ''}{finding.service or 'stream'}: {kind}{finding.says}")
    if not follows:
        _print_whereabouts(finding)
    expected, got = _values(finding, follows)
    if expected is not None or got is not None:
        recorded, now = _compared(expected, got)
        print_line(f"{indent}  recorded  {recorded}")
        print_line(f"{indent}  now       {now}")
    for command in _commands(finding, file)[1 if follows else 0 :]:
        print(f"{indent}  more      {command}")


def _values(finding: Finding, follows: bool) -> tuple[Any, Any]:
    """Returns what the sentence does not say already: of a notification its text, of an outcome nothing."""
    end = _ends().get((finding.service, finding.table))
    if end and end.shows:
        before, after = finding.expected, finding.got
        return before and before[end.shows], after and after[end.shows]
    if follows or end:
        return None, None
    return finding.expected, finding.got


def _ends() -> dict[tuple[str, str], End]:
    """By service and table: two services may have tables of one name."""
    return {
        (name, table): end for name, service in descriptions().items() for table, end in service.ends.items()
    }


def report_as_json(report: Report, file: Path | None) -> str:
    return _as_json(report, lambda finding: {"again": _again(finding, file)})


def closed_loop_as_json(report: Report, file: Path | None) -> str:
    return _as_json(report, lambda finding: {"commands": _commands(finding, file)})


def _as_json(report: Report, more: Callable[[Finding], dict[str, Any]]) -> str:
    """`more` is said of each finding beside its fields. The shape is in docs/replay.md."""
    whole = {
        "verdict": report.verdict,
        "findings": [finding.as_dict() | more(finding) for finding in report.findings],
        "not_deterministic": [finding.as_dict() for finding in report.unstable],
        "allowed": [finding.as_dict() | {"reason": meant.reason} for finding, meant in report.allowed],
        "allowed_without_a_match": [asdict(allowance) for allowance in report.idle],
        "not_verified": report.absent,
        "counts": report.counts,
        "seconds": report.seconds,
    }
    return json.dumps(whole, indent=2, default=str)


def _again(finding: Finding, file: Path | None) -> str:
    return " ".join(["choreo verify", *([str(file)] if file else []), "--service", finding.service])


def _commands(finding: Finding, file: Path | None) -> list[str]:
    commands = [_again(finding, file)] if finding.service else []
    if isinstance(finding, Difference):
        commands.append(f"choreo trace {finding.trace}{f' {file}' if file else ''}")
    return commands


def report_as_junit(report: Report) -> bytes:
    """Writes a test case for each service and kind of comparison."""
    suite = ElementTree.Element("testsuite", name="choreo verify", time=f"{report.seconds:.3f}")
    failed = 0
    for service in ("", *service_names()):
        for kind in ("step", "closure", "state", "incomplete"):
            found = [one for one in report.findings if (one.service, one.kind) == (service, kind)]
            unstable = [one for one in report.unstable if (one.service, one.kind) == (service, kind)]
            case = ElementTree.SubElement(suite, "testcase", classname=service or "stream", name=kind)
            for finding in [*unstable, *found]:
                failed += 1
                failure = ElementTree.SubElement(case, "failure", message=finding.says)
                failure.text = f"{finding.handler}\nexpected {finding.expected}\ngot {finding.got}"
    suite.set("failures", str(failed))
    suite.set("tests", str(len(suite)))
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
