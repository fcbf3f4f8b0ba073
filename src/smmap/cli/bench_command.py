"""`smmap bench` for the command line."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["run"]


def run(options: Any) -> int:
    """Find the files, make the reads and show the figures; return the exit status."""
    from . import bench, report
    from .files import default_paths, find_files
    from .table import progress

    if options.plot and not options.plot.endswith((".svg", ".png")):
        options.error("--plot needs a name that ends with .svg or .png")
    if options.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            wanted = "install the extra `plot`: pip install '.[plot]' in its source folder"
            print(f"smmap bench: --plot needs matplotlib: {wanted}", file=sys.stderr)
            return 3
    try:
        found = find_files(options.paths or default_paths())
    except OSError as error:
        print(f"smmap bench: {error}", file=sys.stderr)
        return 2
    if not found.files:
        print(f"smmap bench: no files to read ({report.skipped(found)})", file=sys.stderr)
        return 2
    settings = bench.Settings(
        window=options.window,
        memory=options.memory,
        handles=options.handles,
        reads=options.reads,
        size=options.size,
        pattern=options.pattern,
        threads=options.threads,
        seed=options.seed,
        files=options.files,
    )
    with bench.few_descriptors(), progress(bench.steps(settings)) as step:
        outcome = bench.run(found, settings, step)
    if not outcome.results:
        print("smmap bench: none of the files could be read", file=sys.stderr)
        return 2
    if options.plot:
        report.draw(outcome, options.plot)
    report.print_json(outcome) if options.json else report.print_table(outcome)
    return 0 if outcome.good else 1
