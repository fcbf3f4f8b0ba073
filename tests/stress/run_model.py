"""Run the stateful model for many steps: `python tests/stress/run_model.py --steps 1000000 --seed 1 --processes 2`.

Each process runs machines of 100 steps one after the other; a failure is shrunk, printed, and ends with status 1. The
seed gives the same run again on the same Python with the same hypothesis and the same number of processes.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import multiprocessing
import os
import platform
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from stress._model import Model

LENGTH = 100  # steps of one machine
BATCH = 50  # machines for one seed


def work(number: int, args: argparse.Namespace, queue: Any) -> None:
    """Machines until this process has done its share."""
    share = -(-args.steps // args.processes) if args.steps else sys.maxsize
    end = time.monotonic() + args.seconds if args.seconds else float("inf")
    phases = [Phase.generate, *([] if args.no_shrink else [Phase.shrink])]
    wanted = settings(
        max_examples=BATCH,
        stateful_step_count=LENGTH,
        deadline=None,
        database=None,
        phases=phases,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    gc.collect()
    gc.freeze() if hasattr(gc, "freeze") else None  # collecting garbage is part of the model, and should be quick
    batch = 0
    shown = time.monotonic()
    while Model.steps < share and time.monotonic() < end:
        faulthandler.dump_traceback_later(600, exit=True)
        run_state_machine_as_test(seed(f"{args.seed} {number} {batch}")(Model), settings=wanted)
        batch += 1
        if time.monotonic() > shown + 60:
            shown = time.monotonic()
            print(f"  process {number}: {Model.steps} steps", flush=True)
    faulthandler.cancel_dump_traceback_later()
    queue.put((Model.steps, Model.met))


def main() -> int:
    parser = argparse.ArgumentParser(description="The stateful model, for many steps.")
    parser.add_argument("--steps", type=int, default=0, help="stop after this many in all (default: only by --seconds)")
    parser.add_argument("--seconds", type=float, default=0, help="or after about so long")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-shrink", action="store_true", help="show a failure as it was found")
    args = parser.parse_args()
    if not args.steps and not args.seconds:
        args.steps = 10_000
    name = f"{platform.python_implementation()} {platform.python_version()}"
    faulthandler.enable()
    print(f"model: {name}, seed {args.seed}, {args.processes} processes", flush=True)
    start = time.monotonic()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=work, args=(number, args, queue)) for number in range(args.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        print(f"model: FAILED, seed {args.seed}")
        return 1
    results = [queue.get() for _ in workers]
    met = sum((result[1] for result in results), Counter[str]())
    print(f"  promised errors that came: {', '.join(f'{name} {number}' for name, number in sorted(met.items()))}")
    print(
        f"model: {sum(result[0] for result in results)} steps, seed {args.seed}, "
        f"{time.monotonic() - start:.0f} s, 0 violations"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
