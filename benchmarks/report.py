"""Shows results: as lines on a terminal, as JSON, as the table in docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import smmap

from .data import ROOT
from .harness import Result

__all__ = ["head", "line", "machine", "read_json", "summary", "write_docs", "write_json"]

PAGE = ROOT / "docs" / "performance.md"
START, END = "<!-- results start: written by `make bench` -->", "<!-- results end -->"


def head(where: dict[str, str]) -> str:
    """What stands above the terminal's table."""
    about = ", ".join(f"{name}: {value}" for name, value in where.items())
    columns = f"{'row':34} {'limit':>9} {'ours':>9} {'ratio':>6} {'goal':24} {'':5} {'spread':>6}  peers / the limit"
    return f"{about}\n{columns}"


def seconds(value: float | None) -> str:
    """A time with three digits and its unit."""
    if value is None:
        return ""
    unit, scale = next((pair for pair in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)) if value * pair[1] < 1000), ("s", 1.0))
    return f"{value * scale:.{3 if value * scale < 100 else 0}{'g' if value * scale < 100 else 'f'}} {unit}"


def multiple(value: float | None) -> str:
    """A ratio."""
    if value is None:
        return ""
    return f"x{value:.2f}" if value < 10 else f"x{value:.1f}" if value < 100 else f"x{value:.0f}"


def verdict(result: Result) -> str:
    """Whether the goal is met."""
    return {None: "", True: "holds", False: "MISS"}[result.holds]


def times(result: Result) -> tuple[str, str]:
    """The limit's and ours."""
    if result.factors is not None:
        return multiple(result.factors[0]), multiple(result.factors[1])
    if result.size is not None:
        return "", f"{result.size} B"
    return seconds(result.best("limit")), seconds(result.best("ours"))


def goal(result: Result) -> str:
    """What is wanted; of a peer's time, also how it is."""
    if result.size is not None:
        return f"{result.goal:.0f} B" if result.goal else ""
    if not result.against:
        return multiple(result.goal)
    is_now = f" ({multiple(result.judged)})" if result.judged else ""
    return f"{multiple(result.goal)} of {result.against}{is_now}"


def peers(result: Result) -> str:
    """What the others take, as multiples of the limit; all the limits, if there are several."""
    if result.size is not None:
        return result.limit
    limit = result.best("limit")
    several = sum(one.role == "limit" for one in result.contenders.values()) > 1
    shown = []
    for name, one in result.contenders.items():
        if one.role == "peer" or (one.role == "limit" and several):
            ratio = multiple(one.least / limit) if limit and one.least else ""
            shown.append(" ".join(filter(None, (name, ratio, f"({one.note})" if one.note else ""))))
    return ", ".join(shown)


def spread(result: Result) -> str:
    """By how much the median of a contender's rounds is above the least: ours, or the limit's if that is more."""
    spreads = [one.median / one.least for one in result.contenders.values() if one.role != "peer" and one.least]
    return f"{max(spreads):.2f}" if spreads else ""


def line(result: Result) -> str:
    """One line of the terminal's table."""
    if result.skipped:
        return f"{result.name:34} skipped: {result.skipped}"
    limit, ours = times(result)
    return (
        f"{result.name:34} {limit:>9} {ours:>9} {multiple(result.ratio):>6} {goal(result):24} {verdict(result):5} "
        f"{spread(result):>6}  {peers(result)}"
    ).rstrip()


def balance(results: Sequence[Result]) -> str:
    """How many goals hold."""
    judged = [one for one in results if one.holds is not None]
    return f"{sum(bool(one.holds) for one in judged)} of {len(judged)} goals hold"


def summary(results: Sequence[Result]) -> str:
    """How many goals hold, and which do not."""
    missed = [one for one in results if one.holds is False]
    lines = [balance(results)]
    lines += [f"  {one.name}: {multiple(one.ratio) or times(one)[1]} of its limit, goal {goal(one)}" for one in missed]
    skipped = sum(bool(one.skipped) for one in results)
    return "\n".join([*lines, f"{skipped} rows were skipped"] if skipped else lines)


def machine() -> dict[str, str]:
    """What was measured, on what kind of machine."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "src", "benchmarks")
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((one.partition(":")[2].strip() for one in lines if one.startswith("model name")), model)
    except OSError:
        pass
    return {
        "Commit": git("rev-parse", "--short=12", "HEAD") + (" and what was not committed yet" if changed else ""),
        "Engine": smmap.engine,
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Processor": f"{model}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.release()}",
    }


def write_json(path: str, results: Sequence[Result], where: dict[str, str]) -> None:
    """All that was measured."""
    record = {"machine": where, "rows": [one.as_json() for one in results]}
    Path(path).write_text(json.dumps(record, indent=1) + "\n")


def read_json(*paths: str) -> tuple[list[Result], dict[str, str]]:
    """What `write_json` wrote, one file after the other: results, and where they were measured, the same for all."""
    records = [json.loads(Path(path).read_text()) for path in paths]
    where: dict[str, str] = records[0]["machine"]
    if any(record["machine"] != where for record in records):
        raise SystemExit("what was measured at another commit, or elsewhere, does not belong into one table")
    return [Result.of_json(one) for record in records for one in record["rows"]], where


SUBJECTS = {
    "hits": "Reads of what is mapped",
    "cold": "Reads under a limit of memory",
    "files": "Many files",
    "sequential": "From start to end",
    "search": "Search",
    "objects": "File objects",
    "collect": "Collecting",
    "threads": "Threads",
    "git": "gitdb",
    "memory": "Memory of an object",
}


def shown(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The rows that have a goal, and those which are in no figure, by subject."""
    groups: dict[str, list[Result]] = {}
    for one in results:
        if one.goal is not None or not one.figure:
            groups.setdefault(one.subject, []).append(one)
    return groups


def beside(rows: Sequence[Result], peer: str) -> str:
    """From the least to the greatest of a peer's times, as multiples of the limit."""
    pairs = [(one.contenders.get(peer), one.best("limit")) for one in rows]
    return span([found.least / limit for found, limit in pairs if found is not None and found.least and limit])


def span(ratios: Sequence[float]) -> str:
    """From the least to the greatest."""
    return " to ".join(dict.fromkeys([multiple(min(ratios)), multiple(max(ratios))])) if ratios else ""


def verdicts(results: Iterable[Result]) -> list[str]:
    """A line for each subject, in Markdown: narrow enough for any screen."""
    lines = ["| Subject | Goals that hold | smmap / limit | smmap 5 / limit |", "|---|--:|--:|--:|"]
    for subject, rows in shown(results).items():
        held = [one.holds for one in rows if one.holds is not None]
        ours = span([one.ratio for one in rows if one.ratio is not None and one.factors is None])
        counts = f"{sum(held)} of {len(held)}" if held else ""
        lines.append(f"| {SUBJECTS.get(subject, subject)} | {counts} | {ours} | {beside(rows, 'smmap 5')} |")
    return lines


def details(results: Iterable[Result]) -> list[str]:
    """The rows of each subject, folded, in Markdown; peers in a table of their own, or it would be too wide."""
    lines: list[str] = []
    for subject, rows in shown(results).items():
        lines += ["", f'??? note "{SUBJECTS.get(subject, subject)}"', ""]
        lines += ["    | Workload | Limit | Its time | smmap | Ratio | Goal | Holds | Spread |"]
        lines += ["    |---|---|--:|--:|--:|--:|---|--:|"]
        for one in rows:
            limit, ours = times(one)
            what = "" if one.size is not None else one.limit
            holds = "skipped" if one.skipped else {True: "yes", False: "**no**", None: ""}[one.holds]
            aim = goal(one) + (f" (stretch {multiple(one.stretch)})" if one.stretch else "")
            cells = (one.name, what, limit, ours, multiple(one.ratio), aim, holds, spread(one))
            lines.append(f"    | {' | '.join(cells)} |")
        title = "Consists of" if subject == "memory" else "Peers, as multiples of the limit"
        lines += [
            "",
            f"    | Workload | {title} |",
            "    |---|---|",
            *(f"    | {one.name} | {peers(one)} |" for one in rows if peers(one)),
        ]
    return lines


CURVES = {
    "hits": ("Hits by number of windows", "Time of a read by number of windows"),
    "cold": ("Cold reads by pattern and limit", "Time of a read by limit of mapped memory"),
    "files": ("Many files", "Time of a read by number of files"),
    "collect": ("Collecting", "Time of a region by number of regions"),
    "threads": ("Threads", "Time of a read by number of threads"),
}


def curves(results: Sequence[Result]) -> list[str]:
    """The figures that were drawn, in Markdown."""
    drawn = {one.figure for one in results if one.contenders}
    lines = ["", "All numbers, with every contender's times, are in [performance.json](assets/performance.json)."]
    lines += ["", "Lower is better in the curves. Both axes are logarithmic, but for the times of threads."]
    for name, (title, text) in CURVES.items():
        if name in drawn:
            lines += ["", f"### {title}", "", f"![{text}](assets/{name}.svg)"]
    return lines


def write_docs(results: Sequence[Result], where: dict[str, str]) -> None:
    """Put the table into the page, in place of the one before."""
    text = PAGE.read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"{PAGE} has no place for results: {START} ... {END}")
    about = [f"- {name}: {value}" for name, value in where.items()]
    body = [*about, f"- {balance(results)}", "", *verdicts(results), *details(results), *curves(results)]
    PAGE.write_text("\n".join([before + start, "", *body, "", end + after]))
