"""`smmap replay`: what other limits would have done with the reads of a trace, and which limits to choose."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

from .._report import format_size
from .._trace_format import TracedManager, TraceError

__all__ = ["run"]

_NEEDS = "smmap replay needs numpy: install the extra `numpy`: pip install '.[numpy]' in its source folder"
_PLOTS = "--plot needs matplotlib: install the extra `plot`: pip install '.[plot]' in its source folder"


def run(options: Any) -> int:
    """Replay a trace, or generated reads; return the exit status."""
    if bool(options.trace) == bool(options.synthetic):
        options.error("give a TRACE, or --synthetic SPEC")
    if options.plot and not options.plot.endswith((".svg", ".png")):
        options.error("--plot needs a name that ends with .svg or .png")
    try:
        import numpy  # noqa: F401
    except ImportError:
        print(f"smmap replay: {_NEEDS}", file=sys.stderr)
        return 3
    if options.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            print(f"smmap replay: {_PLOTS}", file=sys.stderr)
            return 3
    try:
        return _synthetic(options) if options.synthetic else _replay(options)
    except (TraceError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
        print(f"smmap replay: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"smmap replay: there is not enough memory for so many files or reads: {error}", file=sys.stderr)
        return 2


def _replay(options: Any) -> int:
    from .._trace_format import load
    from . import advice, again, prices
    from .table import progress
    from .touches import reads_of

    recorded = load(options.trace, options.partial)
    reads = reads_of(recorded)
    if not len(reads):
        print(f"smmap replay: {options.trace!r} has no reads", file=sys.stderr)
        return 2
    present = _present(options, recorded, reads)
    budget = options.budget or sys.maxsize
    more = 5 * options.policies
    with progress(advice.steps(reads, present) + 1 + more + 100 * options.measure) as step:
        costs = prices.measure()
        step("prices")
        found = advice.advise(reads, present, costs, budget, step)
        best = found.recommended
        policies = _policies(reads, best, step) if options.policies else {}
        measured = again.again(reads, best.window, best.memory, best.handles, step) if options.measure else None
    if options.plot:
        from .curves import draw

        draw(found, options.plot)
    show = _print_json if options.json else _print_text
    show(options, reads, found, costs, policies, measured)
    return 0


def _present(options: Any, recorded: Any, reads: Any) -> TracedManager:
    """The given limits, otherwise those of the manager with the most reads in the trace."""
    import numpy as np

    counts: Counter[int] = Counter()
    for number, count in zip(reads.numbers, np.bincount(reads.file).tolist()):
        counts[recorded.files[number].manager] += count
    found: TracedManager = recorded.managers[counts.most_common(1)[0][0]]
    return TracedManager(
        found.window if options.window is None else options.window,
        options.memory or found.memory,
        options.handles or found.handles,
    )


def _policies(reads: Any, best: Any, step: Any) -> dict[int, dict[str, float]]:
    """The share of misses of each policy, for some memory limits, with windows of the recommended size."""
    from .policies import POLICIES, simulate
    from .touches import touches_of

    touches = touches_of(reads, best.window)
    windows, sizes = touches.window.tolist(), touches.sizes.tolist()
    footprint = sum(sizes)
    found: dict[int, dict[str, float]] = {}
    for part in (32, 16, 8, 4, 2):
        memory = max(footprint // part, max(sizes))
        found[round(memory / reads.rate)] = {name: simulate(name, windows, sizes, memory) for name in POLICIES}
        step("policies")
    return found


def _choice(choice: Any) -> dict[str, Any]:
    outcome = choice.outcome
    return {
        "window_size": choice.window,
        "max_memory_size": choice.memory,
        "max_open_handles": choice.handles,
        "miss_ratio": outcome.miss_ratio,
        "hits": outcome.hits,
        "misses": outcome.misses,
        "cold_reads": outcome.cold_reads,
        "most_mapped": outcome.most_windows,
        "most_memory": outcome.most_memory,
        "ns_per_read": choice.ns_per_read,
        "ns_per_read_from_storage": choice.ns_per_read_from_storage,
    }


def _print_json(options: Any, reads: Any, found: Any, costs: Any, policies: Any, measured: Any) -> None:
    answer = {
        "trace": options.trace,
        "reads": reads.seen,
        "reads_recorded": len(reads),
        "rate": reads.rate,
        "files": len(reads.paths),
        "prices_ns": costs._asdict(),
        "present": _choice(found.present),
        "recommended": _choice(found.recommended),
        "recommendation": found.line,
        "curves": [
            {"window_size": curve.window, "memory": curve.memories, "miss_ratio": curve.misses}
            for curve in found.curves
        ],
        "policies": [{"memory": memory, **shares} for memory, shares in policies.items()] or None,
        "measured": None if measured is None else {**measured._asdict(), "miss_ratio": measured.miss_ratio},
    }
    print(json.dumps(answer, indent=2))


def _print_text(options: Any, reads: Any, found: Any, costs: Any, policies: Any, measured: Any) -> None:
    from .curves import text
    from .table import print_rows

    sample = "" if reads.rate == 1 else f", {len(reads):,} of them in the sample of 1 in {1 / reads.rate:.0f}"
    print(f"{reads.seen:,} reads of {len(reads.paths):,} files{sample}", "", sep="\n")
    if not options.plot:
        print("windows not found mapped, if each were mapped at once", *text(found), "", sep="\n")
    rows = [["", "window", "memory", "handles", "misses", "time a read", "from storage"]]
    for name, choice in (("present", found.present), ("recommended", found.recommended)):
        rows.append(_row(name, choice))
    print_rows(rows)
    stored = (
        ""
        if costs.miss_from_storage is None
        else (f"; from storage: miss {_time(costs.miss_from_storage)}, cold read {_time(costs.read_from_storage)}")
    )
    print(
        "",
        f"measured here: hit {_time(costs.hit)}, miss {_time(costs.miss)}, cold read {_time(costs.cold_read)}{stored}",
        sep="\n",
    )
    if policies:
        names = list(next(iter(policies.values())))
        print("", f"misses by policy, windows of {format_size(found.recommended.window)}", sep="\n")
        print_rows(
            [["memory", *names]]
            + [[format_size(memory), *(f"{shares[name]:.1%}" for name in names)] for memory, shares in policies.items()]
        )
    if measured is not None:
        predicted = found.recommended.outcome.miss_ratio
        files = "empty stand-ins" if measured.stand_ins else "the files"
        print(
            "",
            f"replayed for real on {files}: misses {measured.miss_ratio:.1%} (predicted {predicted:.1%}), "
            f"{_time(measured.ns_per_read)} a read",
            sep="\n",
        )
    print("", found.line, sep="\n")


def _row(name: str, choice: Any) -> list[str]:
    stored = choice.ns_per_read_from_storage
    handles = "system's" if choice.handles >= sys.maxsize else f"{choice.handles:,}"
    return [
        *(name, _window(choice.window), format_size(choice.memory), handles, f"{choice.outcome.miss_ratio:.1%}"),
        *(_time(choice.ns_per_read), "-" if stored is None else _time(stored)),
    ]


def _window(size: int) -> str:
    return format_size(size) if size else "whole files"


def _time(nanoseconds: float) -> str:
    return f"{nanoseconds:.0f} ns" if nanoseconds < 1000 else f"{nanoseconds / 1000:.1f} us"


def _synthetic(options: Any) -> int:
    from . import synthetic
    from .table import print_rows, progress

    try:
        spec = synthetic.parse(options.synthetic)
    except ValueError as error:
        options.error(f"--synthetic: {error}")
    window = 64 << 10 if options.window is None else options.window
    memory = options.memory or 256 << 20
    handles = options.handles or sys.maxsize
    more = synthetic.real_steps(spec) if options.measure else 0
    with progress(synthetic.steps(spec) + more) as step:
        found = synthetic.simulate(spec, window, memory, handles, step)
        real = synthetic.files_for_real(spec, window, memory, handles, step) if options.measure else []
    if options.json:
        outcome = found.outcome
        answer = {
            "synthetic": spec._asdict(),
            "limits": {"window_size": window, "max_memory_size": memory, "max_open_handles": handles},
            "miss_ratio": outcome.miss_ratio,
            "hits": outcome.hits,
            "misses": outcome.misses,
            "cold_reads": outcome.cold_reads,
            "most_mapped": outcome.most_windows,
            "most_memory": outcome.most_memory,
            "seconds": found.seconds,
            "stages": [stage._asdict() for stage in found.stages],
            "curve": {"memory": found.memories, "miss_ratio": found.misses},
            "real": [stage._asdict() for stage in real] or None,
        }
        print(json.dumps(answer, indent=2))
        return 0
    outcome = found.outcome
    print(
        f"{spec.accesses:,} reads of {format_size(spec.read)} in {spec.files:,} files of {format_size(spec.size)}",
        f"limits: window {_window(window)}, memory {format_size(memory)}",
        f"misses {outcome.miss_ratio:.1%}: {outcome.misses:,} mapped, {outcome.cold_reads:,} read cold; "
        f"at most {outcome.most_windows:,} windows of {format_size(outcome.most_memory)} mapped",
        "",
        sep="\n",
    )
    for title, stages in (("the policy, simulated", found.stages), ("a manager, for real", real)):
        if stages:
            print(title)
            print_rows(
                [["files so far", "ns an access", "resident"]]
                + [[f"{one.files:,}", f"{one.ns_per_access:,.0f}", format_size(one.resident)] for one in stages],
                left=0,
            )
            print()
    print_rows(
        [["memory", "misses, if each is mapped at once"]]
        + [[format_size(size), f"{share:.1%}"] for size, share in zip(found.memories, found.misses)]
    )
    return 0
