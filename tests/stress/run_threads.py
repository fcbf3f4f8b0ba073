"""Read from many threads: `python tests/stress/run_threads.py --reads 10000000 --threads 8 --seed 1`.

Ends with status 1 at the first wrong byte, error that was not promised, or ledger that does not read zero in the end;
if a round takes a quarter of an hour, it hangs, and this writes the stacks of all threads.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from stress._threads import rounds


def gil() -> str:
    """What the interpreter says about its global lock now."""
    return "on" if getattr(sys, "_is_gil_enabled", lambda: True)() else "off"


def main() -> int:
    parser = argparse.ArgumentParser(description="Many threads on one manager.")
    parser.add_argument("--reads", type=int, default=0, help="stop after this many in all (default: only by --seconds)")
    parser.add_argument("--seconds", type=float, default=0, help="or after about so long")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    if not args.reads and not args.seconds:
        args.reads = 1_000_000
    gc.collect()
    gc.freeze() if hasattr(gc, "freeze") else None  # collecting garbage is what is tested, and should be quick
    start = time.monotonic()
    end = start + args.seconds if args.seconds else float("inf")
    sys.setswitchinterval(1e-5)
    name = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"threads: {name}, GIL {gil()}, seed {args.seed}, {args.threads} threads", flush=True)
    reads = count = 0
    met: Counter[str] = Counter()
    shown = start
    try:
        for one in rounds(args.seed, args.threads, args.reads or sys.maxsize, end):
            reads += sum(one.done)
            count += 1
            met += one.met
            if time.monotonic() > shown + 60:
                shown = time.monotonic()
                print(f"  {reads} reads in {count} rounds", flush=True)
    except BaseException:
        traceback.print_exc()
        print(f"threads: FAILED in round {count}, seed {args.seed}")
        return 1
    print(f"  promised errors that came: {', '.join(f'{name} {number}' for name, number in sorted(met.items()))}")
    print(
        f"threads: {reads} reads in {count} rounds, {args.threads} threads, seed {args.seed}, GIL {gil()}, "
        f"{time.monotonic() - start:.0f} s, 0 wrong bytes, 0 other errors, every ledger at zero"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
