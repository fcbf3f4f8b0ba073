"""The cost of `import smmap`, beside importing the standard library's modules that it uses.

A new Python starts for each import and times it; rounds alternate, and the fastest one counts.

    python benchmarks/import_time.py [ROUNDS]
"""

from __future__ import annotations

import os
import subprocess
import sys

import smmap

GROUND = "mmap, os, threading, collections, weakref, typing"
# Without `site` (-S), which on some machines has imported half of this before we look.
# Without their bytecode kept, modules would be compiled each time, which no user's second start does.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["PYTHONPATH"] = os.path.dirname(os.path.dirname(smmap.__file__))


def seconds(modules: str) -> float:
    """The time that importing the modules takes in a new interpreter."""
    code = f"from time import perf_counter as now; t = now(); import {modules}; print(now() - t)"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    return float(done.stdout)


def main(rounds: int = 40) -> None:
    times = [(seconds(GROUND), seconds("smmap")) for _ in range(rounds)]
    ground, ours = (min(column) for column in zip(*times))
    print(f"import {GROUND}: {ground * 1e3:.2f} ms")
    print(f"import smmap: {ours * 1e3:.2f} ms")
    print(f"ratio: {ours / ground:.2f} (goal: at most 2)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
