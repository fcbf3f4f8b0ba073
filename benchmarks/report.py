"""Shows results: as lines on a terminal, as JSON, as the tables in docs/performance.md and README.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from .data import ROOT
from .engines import sides
from .harness import ENGINES, SMMAP_5, Result, Settings
from .plots import panels_of

__all__ = ["SUBJECTS", "head", "line", "machine", "read_json", "summary", "write_docs", "write_json"]

PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
START, END = "<!-- results start: written by `make bench` -->", "<!-- results end -->"

SUBJECTS = {
    "hits": "Reads of mapped windows",
    "guard": "The guard against truncated files",
    "cold": "Reads of more than may be mapped",
    "files": "Many files, and files opened for one read",
    "sequential": "Large slices, and whole files from start to end",
    "search": "find and rfind",
    "objects": "Under other libraries",
    "collect": "Unmapping what is idle",
    "threads": "Several threads",
    "git": "Under gitdb",
    "memory": "Memory",
}
"""The modules with rows, in the order in which they are measured and shown, and their titles."""
FIGURES = {
    "hits": "Time of a read by number of windows",
    "cold": "Time of a read by limit of mapped memory",
    "files": "Time of a read by number of files",
    "collect": "Time of a region by number of regions",
    "threads": "Time of a read by number of threads",
}
IN_README = {
    "buf[i] one window": "a byte, `buf[i]`, one window",
    "buf[i:i+4096] one window": "4 KiB at random, one window",
    "buf[i:i+4096] 64 windows": "4 KiB at random, 64 windows",
    "buf.view 64 windows": "a view of 4 KiB, 64 windows",
    "cursor 64 windows": "a cursor moves among 64 windows",
    "new cursor 64 windows": "a new cursor for each read",
    "buffer cold, uniform": "4 KiB at random, 256 MiB of which 16 may be mapped",
    "files, F = 1,000": "4 KiB of 1,000 files, 256 handles",
    "files, F = 10,000": "4 KiB of 10,000 files, 256 handles",
    "open, 100 bytes, close: smmap.buffer": "a file opened for one read",
    "find, 40 bytes away": "`find`, 40 bytes away",
    "lines of text": "lines of text",
    "gitdb, stream": "gitdb, reading objects of packs",
}
LIMITS_IN_README = {
    "the better of os.pread and lru_cache of mmaps": "`os.pread`",
    "the better of lru_cache of mmaps and os.pread with an LRU of descriptors": "`os.pread`, LRU of descriptors",
}


def head(where: dict[str, str]) -> str:
    """The lines above the terminal's table."""
    about = ", ".join(f"{name}: {value}" for name, value in where.items())
    both = " ".join(f"{name:>9} {'x limit':>7} {'goal':28} {'':5}" for name in ENGINES)
    return f"{about}\n{'row':44} {'limit':>9} {both} {'spread':>6}  others, as multiples of the limit"


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


def shown(result: Result, value: float | None) -> str:
    """The measurements of a contender."""
    if value is None:
        return ""
    return {"s": seconds, "x": multiple, "B": lambda size: f"{size:.0f} B"}[result.unit](value)


def verdict(result: Result, engine: str) -> str:
    """Whether the goal is met."""
    return {None: "", True: "holds", False: "MISS"}[result.holds(engine)]


def judged(result: Result, engine: str) -> str:
    """The value that an engine's goal judges."""
    value = result.value(engine)
    if value is None:
        return ""
    return (
        f"{value:+.1f} ns" if result.aims[engine].more else f"{value:.0f} B" if result.unit == "B" else multiple(value)
    )


def goal(result: Result, engine: str) -> str:
    """The goal of an engine."""
    aim = result.aims.get(engine)
    if aim is None:
        return ""
    return f"+{aim.most:.0f} ns" if aim.more else f"{aim.most:.0f} B" if result.unit == "B" else multiple(aim.most)


def beside(result: Result, engine: str) -> str:
    """What an engine's goal is a multiple of, if it is not the limit."""
    aim = result.aims.get(engine)
    return "" if aim is None else aim.against.removeprefix(f"{engine}, ")


def goal_in_line(result: Result, engine: str) -> str:
    """The goal, and where it is not of the limit, of what, and how it is."""
    other = beside(result, engine)
    if not other:
        return goal(result, engine)
    return f"{goal(result, engine)} of {other} ({judged(result, engine) or '-'})"


def others(result: Result) -> str:
    """What the others take, as multiples of the limit; all the limits, if there are several."""
    limit = result.best("limit")
    several = sum(one.role == "limit" for one in result.contenders.values()) > 1
    parts = []
    for name, one in result.contenders.items():
        if one.role == "peer" or (one.role == "limit" and several):
            value = (
                multiple(one.least / limit) if limit and one.least else shown(result, one.least) if one.least else ""
            )
            parts.append(" ".join(filter(None, (name, value, f"({one.note})" if one.note else ""))))
    return ", ".join(parts)


def spread(result: Result) -> str:
    """The median of a contender's rounds divided by the fastest: the largest value of ours and the limit's."""
    if result.unit != "s":
        return ""
    spreads = [one.median / one.least for one in result.contenders.values() if one.role != "peer" and one.least]
    return f"{max(spreads):.2f}" if spreads else ""


def line(result: Result) -> str:
    """One line of the terminal's table."""
    if result.skipped:
        return f"{result.name:44} skipped: {result.skipped}"
    both = " ".join(
        f"{shown(result, result.best(name)):>9} {multiple(result.ratio(name)):>7} {goal_in_line(result, name):28} "
        f"{verdict(result, name):5}"
        for name in ENGINES
    )
    limit = shown(result, result.best("limit"))
    return f"{result.name:44} {limit:>9} {both} {spread(result):>6}  {others(result)}".rstrip()


def balance(results: Sequence[Result]) -> str:
    """How many goals hold."""
    parts = []
    for engine in ENGINES:
        verdicts = [one.holds(engine) for one in results if one.holds(engine) is not None]
        if verdicts:
            parts.append(f"{engine}: {sum(map(bool, verdicts))} of {len(verdicts)} goals hold")
    return "; ".join(parts)


def summary(results: Sequence[Result]) -> str:
    """How many goals hold, and which do not."""
    lines = [balance(results)]
    for engine in ENGINES:
        for one in results:
            if one.holds(engine) is False:
                of = f" of {beside(one, engine)}" if beside(one, engine) else ""
                lines.append(f"  {engine}: {one.name}: {judged(one, engine)}{of}, goal {goal(one, engine)}")
    skipped = sum(bool(one.skipped) for one in results)
    return "\n".join([*lines, f"{skipped} rows were skipped"] if skipped else lines)


def machine(settings: Settings | None = None) -> dict[str, str]:
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
    where = {
        "Commit": git("rev-parse", "--short=12", "HEAD") + (" and what was not committed yet" if changed else ""),
        "Engine": ", ".join(name for name, _ in sides()),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Processor": f"{model}, {os.cpu_count()} cores",
        "System": f"{platform.system()} {platform.release()}",
    }
    if settings is not None:
        where["Clock"] = "CPU time of the process" if settings.cpu else "the wall's"
        count = f"{settings.processes} processes" if settings.processes > 1 else "one process"
        where["Rounds"] = f"{settings.rounds} in {count}, fewer of what takes long"
        where["Date"] = time.strftime("%Y-%m-%d")
    return where


def write_json(path: str, results: Sequence[Result], where: dict[str, str]) -> None:
    """Write all measurements."""
    record = {"machine": where, "rows": [one.as_json() for one in results]}
    Path(path).write_text(json.dumps(record, indent=1) + "\n")


def read_json(*paths: str) -> tuple[list[Result], dict[str, str]]:
    """What `write_json` wrote, one file after the other: results, and where they were measured, the same for all.

    A row that is in several files is taken from the last one.
    """
    records = [json.loads(Path(path).read_text()) for path in paths]
    where: dict[str, str] = records[0]["machine"]
    if any(record["machine"] != where for record in records):
        raise SystemExit("measurements of another commit or machine do not belong in one table")
    found = {one["name"]: Result.of_json(one) for record in records for one in record["rows"]}
    return list(found.values()), where


def named(result: Result) -> str:
    """The row's name, and its interpreter if that is another one."""
    return result.name + (f" ({result.python})" if result.python else "")


def held(result: Result, engine: str) -> str:
    """Whether a goal is met, in a table of Markdown."""
    if engine in result.aims and result.holds(engine) is None:
        return "skipped" if result.skipped else "not measured"
    return {True: "yes", False: "**no**", None: ""}[result.holds(engine)]


def theirs(result: Result) -> str:
    """What smmap 5 takes, as a multiple of the limit."""
    one = result.contenders.get(SMMAP_5)
    if one is None:
        return ""
    limit = result.best("limit")
    value = multiple(one.least / limit) if limit and one.least else shown(result, one.least or None)
    return " ".join(filter(None, (value, f"({one.note})" if one.note else "")))


def verdicts(results: Iterable[Result]) -> list[str]:
    """The rows that have a goal, in Markdown."""
    lines = [
        "| Workload | Beside | fast | Goal | Holds | plain / limit | / smmap 5 | Goal | Holds | smmap 5 / limit |",
        "|---|---|--:|--:|---|--:|--:|--:|---|--:|",
    ]
    for one in results:
        if one.aims:
            other = beside(one, "plain")
            plain = judged(one, "plain")
            if plain and other != SMMAP_5:
                plain += f" of {other or 'the limit'}"
            mine = shown(one, one.best("plain")) if one.unit == "B" else multiple(one.ratio("plain"))
            fast = judged(one, "fast") or multiple(one.ratio("fast"))
            cells = (
                named(one),
                beside(one, "fast") or one.limit,
                fast,
                goal(one, "fast"),
                held(one, "fast"),
                mine,
                plain,
                goal(one, "plain"),
                held(one, "plain"),
                theirs(one),
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def details(subject: str, results: Sequence[Result]) -> list[str]:
    """All rows of a subject, with times and every contender, in Markdown, folded."""
    lines = [
        "",
        '<details markdown="1">',
        f"<summary>{SUBJECTS[subject]}</summary>",
        "",
        "| Workload | Limit | its time | fast | | plain | | Spread | Others, as multiples of the limit |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for one in results:
        if one.skipped:
            lines.append(f"| {named(one)} | {one.limit} | skipped: {one.skipped} | | | | | | |")
            continue
        both = [cell for name in ENGINES for cell in (shown(one, one.best(name)), multiple(one.ratio(name)))]
        cells = (named(one), one.limit, shown(one, one.best("limit")), *both, spread(one), others(one))
        lines.append(f"| {' | '.join(cells)} |")
    if panels_of(results, subject):
        lines += ["", f"![{FIGURES[subject]}](assets/{subject}.svg)"]
    return [*lines, "", "</details>"]


def in_readme(results: Iterable[Result], where: dict[str, str]) -> list[str]:
    """The README's table, and the machine and commit that it comes from."""
    found = {one.name: one for one in results}
    about = f"{where['Python']}, {where['System'].partition(' ')[0]}, {where['Processor']}, commit {where['Commit']}"
    lines = [
        f"{about}, {where.get('Date', '')}, least {'CPU' if 'CPU' in where.get('Clock', '') else 'wall clock'} times:",
        "",
        "| workload | the limit | fast | plain | smmap 5 |",
        "|---|---|--:|--:|--:|",
    ]
    for name, text in IN_README.items():
        if name in found and found[name].contenders:
            one = found[name]
            limit = LIMITS_IN_README.get(one.limit, one.limit)
            cells = (text, limit, multiple(one.ratio("fast")), multiple(one.ratio("plain")), theirs(one))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def write_docs(results: Sequence[Result], where: dict[str, str]) -> list[Path]:
    """Put the tables into the page and into the README, in place of those before."""
    results = sorted(results, key=lambda one: list(SUBJECTS).index(one.subject))
    body = [f"- {name}: {value}" for name, value in where.items()]
    body += [f"- {balance(results)}", "", *verdicts(results), "", "### Details", ""]
    body += ["All numbers, with every contender's times, are in [performance.json](assets/performance.json)."]
    body += ["Lower is better in the curves. Both axes are logarithmic, but for the times of threads."]
    for subject in SUBJECTS:
        own = [one for one in results if one.subject == subject]
        if own:
            body += details(subject, own)
    for path, lines in ((PAGE, body), (README, in_readme(results, where))):
        text = path.read_text()
        before, start, rest = text.partition(START)
        _, end, after = rest.partition(END)
        if not start or not end:
            raise SystemExit(f"{path} has no place for results: {START} ... {END}")
        path.write_text("\n".join([before + start, "", *lines, "", end + after]))
    return [PAGE, README]
