"""Both engines, the same calls, for many steps: `python tests/stress/run_differential.py --steps 1000000 --seed 1`.

A difference is printed with the calls that led to it, and ends with status 1. The same seed makes the same calls again
on the same Python; `--episode N` makes those of one episode alone.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import platform
import sys
import time
import traceback
from collections import deque
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from stress._differential import Episode, load

LENGTH = 250  # steps of one episode


def main() -> int:
    parser = argparse.ArgumentParser(description="Both engines, the same calls, for many steps.")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--episode", type=int, help="this one only")
    parser.add_argument("--log", type=int, default=25, help="so many calls are shown that led to a difference")
    args = parser.parse_args()
    faulthandler.enable()
    logging.disable()  # warnings about views that keep more than a limit are the rule here
    try:
        load("fast")
    except ImportError as error:
        print(f"differential: left out, since the fast engine is not there: {error}")
        return 0
    print(f"differential: {platform.python_implementation()} {platform.python_version()}, seed {args.seed}", flush=True)
    gc.collect()
    gc.freeze() if hasattr(gc, "freeze") else None
    start = shown = time.monotonic()
    done = 0
    number = args.episode or 0
    while done < args.steps:
        faulthandler.dump_traceback_later(600, exit=True)
        log: deque[str] = deque(maxlen=args.log)
        try:
            done += Episode(f"{args.seed} {number}", log.append).run(LENGTH)
        except BaseException:
            print(*log, sep="\n")
            traceback.print_exc(file=sys.stdout)
            print(f"differential: FAILED after {done} steps, seed {args.seed}, episode {number}")
            return 1
        if args.episode is not None:
            break
        number += 1
        if time.monotonic() > shown + 60:
            shown = time.monotonic()
            print(f"  {done} steps", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(f"  what came: {', '.join(f'{name} {count}' for name, count in sorted(Episode.met.items()))}")
    print(f"differential: {done} steps, seed {args.seed}, {time.monotonic() - start:.0f} s, 0 differences")
    return 0


if __name__ == "__main__":
    sys.exit(main())
