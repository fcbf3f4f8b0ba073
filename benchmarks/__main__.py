"""The command line: choose rows, run each in its own processes, show and keep the results."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence

from . import report
from .data import ROOT
from .harness import DERIVED, QUICK, ROWS, Result, Row, Settings, join, measure

SUBJECTS = [*report.SUBJECTS]


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="smmap beside its limits and peers")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="a subject, or part of a row's name; all without one")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: two minutes in all")
    parser.add_argument("--rounds", type=int, help="rounds of each row, in each process")
    parser.add_argument("--processes", type=int, help="processes for each row; the median of their ratios counts")
    parser.add_argument(
        "--only", metavar="NAMES", default="", help="contenders, by comma: others but limits are left out"
    )
    parser.add_argument("--inline", action="store_true", help="all in this process, as a profiler needs it")
    parser.add_argument(
        "--cpu", action="store_true", help="CPU time of the thread, for a machine that is busy otherwise"
    )
    parser.add_argument("--list", action="store_true", help="name the rows")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and docs/assets")
    parser.add_argument("--from-json", nargs="+", metavar="FILE", help="measure nothing, show what was measured before")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def chosen(names: list[str], quick: bool) -> list[Row]:
    """The rows with one of those subjects, or with one of those parts in their names."""
    for subject in SUBJECTS:
        importlib.import_module(f"{__package__}.{subject}")
    rows = ROWS
    if names:
        rows = [one for one in ROWS if any(name == one.subject or named(name, one) for name in names)]
    return [one for one in rows if one.quick or not quick]


def named(part: str, one: Row) -> bool:
    """Whether that is a part of the row's name, and not a subject."""
    return part in one.name and part not in SUBJECTS


def run(one: Row, settings: Settings, options: argparse.Namespace) -> Result:
    """Measure a row in its own processes."""
    if options.inline and not one.python:
        return measure(one, settings, only(options))
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "src"))
    python, missing = interpreter(one.python)
    if missing:
        return Result.of(one, skipped=missing)
    if one.python == "free-threaded":
        environment["PYTHON_GIL"] = "0"
        settings = dataclasses.replace(settings, cpu=False)  # which adds up threads that run in parallel
    if one.python == "malloc":
        environment["PYTHONMALLOC"] = "malloc"
        settings = dataclasses.replace(settings, processes=1)  # it is counted, not timed
    results = []
    for _ in range(settings.processes):
        command = [python, "-m", __package__ or "benchmarks", "--child", "--only", options.only, one.name]
        done = subprocess.run(
            command,
            input=json.dumps(dataclasses.asdict(settings)),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        if done.returncode:
            return Result.of(one, skipped="it failed, as told above", failed=True)
        results.append(Result.of_json(json.loads(done.stdout)))
    return join(results)


def interpreter(kind: str) -> tuple[str, str]:
    """The Python that a row needs, or why there is none."""
    if kind == "free-threaded":
        python = os.environ.get("SMMAP_FREE_THREADED") or shutil.which("python3.13t") or ""
        return python, "" if python else "no free-threaded Python: name one in SMMAP_FREE_THREADED"
    if kind == "torch" and importlib.util.find_spec("torch") is None:
        python = os.environ.get("SMMAP_TORCH", "")
        return python, "" if python else "torch is not installed: name a Python that has it in SMMAP_TORCH"
    return sys.executable, ""


def only(options: argparse.Namespace) -> set[str]:
    """The requested contenders; an empty list means all."""
    return {name for name in options.only.split(",") if name}


def publish(results: Sequence[Result], where: dict[str, str]) -> None:
    """Write the page's tables, the curves, all figures, and the README's table."""
    from . import plots

    assets = ROOT / "docs" / "assets"
    for path in plots.draw(assets, results):
        print(f"wrote {path.relative_to(ROOT)}")
    report.write_json(str(assets / "performance.json"), results, where)
    for path in report.write_docs(results, where):
        print(f"wrote {path.relative_to(ROOT)}")


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    options = parsed(arguments)
    rows = chosen(options.rows, options.quick)
    if options.child:
        settings = Settings(**json.load(sys.stdin))
        (one,) = [one for one in rows if one.name == options.rows[0]]
        result = measure(one, settings, only(options))
        if one.python in ("free-threaded", "torch"):
            result.python = f"{platform.python_implementation()} {platform.python_version()}"
        json.dump(result.as_json(), sys.stdout)
        return 0
    if not rows:
        raise SystemExit(f"no row is called {options.rows}: see --list")
    if options.list:
        print(*(f"{one.subject:12} {one.name}" for one in rows), sep="\n")
        return 0
    if options.from_json:
        results, where = report.read_json(*options.from_json)
        known = {one.name for one in results}  # what is computed from rows of several files is missing in each
        results += [found for more in DERIVED if more.name not in known and (found := more.of(results)) is not None]
        print(report.head(where), *map(report.line, results), report.summary(results), sep="\n")
        if options.write:
            publish(results, where)
        return 0
    settings = QUICK if options.quick else Settings()
    changes = {name: getattr(options, name) for name in ("rounds", "processes") if getattr(options, name)}
    changes["cpu"] = options.cpu
    settings = dataclasses.replace(settings, **changes)
    where = report.machine(settings)  # before the page is written, and as the code is now
    print(report.head(where), flush=True)
    results = []
    for one in rows:
        results.append(run(one, settings if one.aims else settings.for_curves(), options))
        print(report.line(results[-1]), flush=True)
    for more in DERIVED:
        result = more.of(results)
        if result is not None:
            results.append(result)
            print(report.line(result))
    print(report.summary(results))
    if options.json:
        report.write_json(options.json, results, where)
    if any(one.failed for one in results):
        return 1  # and write nothing
    if options.write:
        publish(results, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
