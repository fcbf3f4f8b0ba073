"""Tests of the fast engine under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.

A copy of the sources is built with both in its own folder, and tested with garbage collected at nearly every
allocation. Objects come from `malloc`, so that the sanitizer sees each of them (another PYTHONMALLOC is kept). A report
ends its process; any report in any process, including children of tests, is a failure.
If the compiler has no sanitizers, the tool says so and does nothing.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
FOLDER = HERE / ".sanitize"
ENGINES = Path("src", "smmap", "_engine")
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined -UNDEBUG"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
QUICK = [*(f"tests/engine/test_{name}.py" for name in ("buffers", "cursors", "ledger", "regions")), "-k", "fast"]
CORE = "batches", "eviction", "threads", "lifetime", "files"
CHOSEN = ["tests/engine", *(f"tests/core/test_{name}.py" for name in CORE)]


def library(name: str) -> str:
    """The path of a sanitizer's library; empty if the compiler has none."""
    try:
        told = subprocess.run(
            [*os.environ.get("CC", "gcc").split(), f"-print-file-name={name}"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    path = told.stdout.strip()
    return path if os.path.isabs(path) and os.path.exists(path) else ""


def build() -> Path:
    """The folder from which to import a sanitized smmap, rebuilt if its sources differ from those here."""
    tree = FOLDER / f"{sys.implementation.cache_tag}{getattr(sys, 'abiflags', '')}"
    digest = runpy.run_path(str(HERE / ENGINES / "_sources.py"))["digest"]()
    done = tree / "built-from"
    wanted = f"{digest} {FLAGS}"
    fresh = not done.exists() or done.read_text() != wanted
    if fresh:
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(HERE / name, tree)
    generated = shutil.ignore_patterns("*.so", "fast.c", "fast-not-built.txt", "__pycache__", "*.egg-info")
    shutil.copytree(HERE / "src", tree / "src", ignore=generated, dirs_exist_ok=True)
    if fresh:
        print("sanitize: building", FLAGS, flush=True)
        subprocess.run(
            [*PIP, "wheel", "--no-deps", "--wheel-dir", str(tree), str(tree)],
            env={**os.environ, "SMMAP_BUILD": "fast", "SMMAP_CFLAGS": FLAGS},
            check=True,
        )
        (wheel,) = tree.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".so"):
                    archive.extract(name, tree / "src")
        done.write_text(wanted)
    return tree / "src"


def main() -> int:
    parser = argparse.ArgumentParser(description="Tests of the fast engine under ASan and UBSan.")
    parser.add_argument("--quick", action="store_true", help="the engine's contract only")
    args, chosen = parser.parse_known_args()
    preloaded = [library("libasan.so"), library("libubsan.so")]
    if not all(preloaded):
        print("sanitize: left out, since the C compiler has no libasan and libubsan (on Debian: apt install gcc)")
        return 0
    if sys.implementation.name != "cpython":
        print(f"sanitize: left out, since the fast engine is not built for {sys.implementation.name}")
        return 0
    source = build()
    for report in FOLDER.glob("report.*"):
        report.unlink()
    start = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(source), str(HERE / "tools")]),
        "PYTHONMALLOC": os.environ.get("PYTHONMALLOC", "malloc"),
        "SMMAP_ENGINE": "fast",
        "LD_PRELOAD": " ".join(preloaded),
        # The interpreter leaks by design.
        "ASAN_OPTIONS": f"detect_leaks=0:handle_sigbus=0:detect_stack_use_after_return=1:log_path={FOLDER / 'report'}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={FOLDER / 'report'}",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("-p", "collect_always"),
            *(QUICK if args.quick else [] if any(os.path.exists(one.split("::")[0]) for one in chosen) else CHOSEN),
            *chosen,
        ],
        cwd=HERE,
        env=environment,
        check=False,
    )
    reports = sorted(FOLDER.glob("report.*"))
    for report in reports:
        print(f"\nsanitize: {report}", report.read_text(errors="replace"), sep="\n")
    print(f"sanitize: {len(reports)} reports, {time.monotonic() - start:.0f} s")
    return done.returncode or bool(reports)


if __name__ == "__main__":
    sys.exit(main())
