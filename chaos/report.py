"""The report: each promise with its figures, for people, for scripts and for docs/reliability.md."""

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import Any

from chaos.findings import Wrong
from chaos.run import Outcome, Struck
from chaos.schedule import KINDS, Group, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise, and what speaks for it or against it."""

    text: str
    broken_by: tuple[Wrong, ...]
    figures: str
    kept: bool


def promises(outcome: Outcome) -> list[Promise]:
    """Every promise that a run tries."""
    counts, history, found = outcome.counts, outcome.history, outcome.findings
    kinds = [struck.kind for struck in outcome.struck]
    lost = kinds.count(Kind.RESTART_REDIS), kinds.count(Kind.WIPE_REDIS)
    recovered = [struck.recovered_s for struck in outcome.struck if struck.recovered_s is not None]
    told = (
        (
            "Each row ends with exactly one outcome",
            (Wrong.LOST, Wrong.DOUBLED, Wrong.UNEXPECTED),
            f"{counts.rows:,} rows of {outcome.jobs} jobs: {found.count(Wrong.LOST)} lost, "
            f"{found.count(Wrong.DOUBLED)} doubled, {found.count(Wrong.UNEXPECTED)} unexpected",
        ),
        (
            "Readers see whole shards only, and what they saw stays",
            (Wrong.TORN, Wrong.CHANGED, Wrong.VANISHED),
            f"{outcome.looks:,} looks at {counts.files:,} files: {found.count(Wrong.TORN)} torn, "
            f"{found.count(Wrong.CHANGED)} changed, {found.count(Wrong.VANISHED)} vanished",
        ),
        (
            "A vector is its own row's",
            (Wrong.MISALIGNED,),
            f"{counts.vectors:,} vectors compared: {found.count(Wrong.MISALIGNED)} of another row",
        ),
        (
            "A bad row costs that row",
            (Wrong.MISCODED,),
            f"{counts.failures:,} bad rows and {counts.rejects:,} lines that are none: "
            f"{found.count(Wrong.MISCODED)} with another code than theirs",
        ),
        (
            "A shard is published once, however often it is tried",
            (Wrong.DOUBLED,),
            f"{counts.shards:,} shards, {counts.files:,} publications; {history.taken.total():,} deliveries, "
            f"{history.total('lost'):,} came second, {history.repeated:,} attempts in vain",
        ),
        (
            "No shard is tried too often for cause",
            (Wrong.OVER_RETRIED,),
            f"{history.total('error'):,} attempts failed for cause, {history.most_for_cause} of one shard at most",
        ),
        (
            "Redis is a hint: without it, or without its data, jobs end all the same",
            (Wrong.STUCK,),
            f"killed and empty {lost[0]} times, wiped {lost[1]} times; recovered from a fault within "
            f"{_quantiles(recovered)}; longest silence {outcome.longest_silence_s:.1f} s",
        ),
        (
            "A worker that is told to end does so in time, and no attempt is counted",
            (Wrong.LINGERED, Wrong.OVER_RETRIED),
            f"SIGTERM {kinds.count(Kind.TERM)} times, and at the end; ended within {_quantiles(outcome.exits)}",
        ),
        (
            "Nothing secret and no row's content is logged",
            (Wrong.LEAKED,),
            f"{history.lines:,} lines searched: {found.count(Wrong.LEAKED)} logs with any",
        ),
        (
            "`embedmill verify` says so too",
            (Wrong.REFUTED,),
            f"{outcome.verified:,} of {counts.rows:,} rows in jobs that it calls complete",
        ),
    )
    return [
        Promise(text=text, broken_by=wrongs, figures=figures, kept=not found.count(*wrongs))
        for text, wrongs, figures in told
    ]


def report_lines(outcome: Outcome) -> list[str]:
    """What the command prints."""
    told = promises(outcome)
    width = max(len(promise.text) for promise in told)
    lines = [f"{'kept  ' if p.kept else 'BROKEN'}  {p.text:{width}}  {p.figures}" for p in told]
    lines += ["", f"{len(outcome.struck)} faults in {outcome.seconds:.0f} s, seed {outcome.seed}"]
    lines += [f"  {kind:20} {len(some):4}  {_recovery(some)}" for kind, some in _by_kind(outcome)]
    for wrong in Wrong:
        lines += [f"{wrong}: {what}" for what in outcome.findings.of(wrong)]
    return lines


def report_json(outcome: Outcome) -> dict[str, Any]:
    """The same for scripts."""
    return {
        "ok": outcome.ok,
        "seed": outcome.seed,
        "seconds": round(outcome.seconds, 1),
        "workers": outcome.workers,
        "jobs": outcome.jobs,
        "faults": len(outcome.struck),
        "faults_left": outcome.left,
        "faults_by_kind": {str(kind): len(some) for kind, some in _by_kind(outcome)},
        "recovery_s": {str(kind): _numbers(_recoveries(some)) for kind, some in _by_kind(outcome)}
        | {"all": _numbers(_recoveries(outcome.struck))},
        "longest_silence_s": round(outcome.longest_silence_s, 3),
        "sigterm_to_end_s": _numbers(outcome.exits),
        **{name: getattr(outcome.counts, name) for name in outcome.counts.__slots__},
        "deliveries": outcome.history.taken.total(),
        "published": outcome.history.total("published"),
        "came_second": outcome.history.total("lost"),
        "skipped": outcome.history.total("skipped"),
        "in_vain": outcome.history.repeated,
        "for_cause": outcome.history.total("error"),
        "errors": dict(outcome.history.errors.most_common(10)),
        "looks": outcome.looks,
        "verified_rows": outcome.verified,
        "findings": outcome.findings.to_dict(),
        "promises": [{"promise": p.text, "kept": p.kept, "figures": p.figures} for p in promises(outcome)],
        "kept": outcome.kept,
    }


def report_page(outcome: Outcome, command: str) -> str:
    """The same as a page; `command` makes it again."""
    lines = [
        "# Reliability",
        "",
        "Made by one command; [chaos.md](chaos.md) says what it does and what the figures mean.",
        "",
        f"```bash\n{command}\n```",
        "",
        f"{len(outcome.struck)} faults in {outcome.seconds:.0f} s, {outcome.workers} workers, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"embedmill {version('embedmill')}, seed {outcome.seed}.",
        "",
        "| promise | | figures |",
        "| --- | --- | --- |",
        *(f"| {p.text} | {'kept' if p.kept else '**broken**'} | {p.figures} |" for p in promises(outcome)),
        "",
        "Recovery is the time from a fault's end until more shards are published than could be in work at that moment, "
        "with other faults going on.",
        "",
        "| fault | times | p50 s | p99 s | longest s |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(_row(str(kind), some) for kind, some in _by_kind(outcome)),
        _row("all", outcome.struck),
        "",
    ]
    for wrong in Wrong:
        lines += [f"* {wrong}: {what}" for what in outcome.findings.of(wrong)]
    return "\n".join(lines)


def _by_kind(outcome: Outcome) -> list[tuple[Kind, list[Struck]]]:
    order = list(dict.fromkeys(kind for group in Group for kind in KINDS[group]))
    struck = sorted(outcome.struck, key=lambda s: order.index(s.kind))
    return [(kind, list(some)) for kind, some in groupby(struck, key=lambda s: s.kind)]


def _row(name: str, some: Sequence[Struck]) -> str:
    figures = _numbers(_recoveries(some))
    told = " | ".join(f"{figures[key]:.2f}" if figures else "" for key in ("p50", "p99", "max"))
    return f"| {name} | {len(some)} | {told} |"


def _recoveries(some: Sequence[Struck]) -> list[float]:
    return [struck.recovered_s for struck in some if struck.recovered_s is not None]


def _recovery(some: Sequence[Struck]) -> str:
    return f"recovered within {_quantiles(_recoveries(some))}" if _recoveries(some) else ""


def _quantiles(values: Sequence[float]) -> str:
    figures = _numbers(values)
    if not figures:
        return "no time that was seen"
    return f"p50 {figures['p50']:.1f} s, p99 {figures['p99']:.1f} s, at most {figures['max']:.1f} s"


def _numbers(values: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the largest, by nearest rank."""
    ordered = sorted(values)
    if not ordered:
        return {}
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[math.ceil(share * len(ordered)) - 1], 3) for name, share in ranks.items()}
