"""Line coverage of the fast engine's sources by the tests: `make coverage-fast`.

A copy is compiled for gcov, with Cython's line directives. So gcov counts lines of fast.pyx and of the files that it
includes, even those that run without the interpreter's lock, and does not slow Python down. All processes are counted,
including children of tests, except those that are killed.
"""

from __future__ import annotations

import gzip
import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
TREE = HERE / ".coverage-fast"
ENGINES = Path("src", "smmap", "_engine")
CHOSEN = ["tests/core", "tests/engine", "tests/stress", "tests/compat/test_names.py"]
CHOSEN += [f"tests/faces/test_{name}.py" for name in ("buffers", "default", "files", "pickling")]
PRAGMA = "pragma: no cover"
NO_CODE = ("#", "@", "cdef extern", "cimport", "from ", "include", "else:")


def build() -> Path:
    """A copy of the sources, with an extension that counts lines."""
    shutil.rmtree(TREE, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.so", "fast.c", "fast-not-built.txt", "__pycache__", "*.egg-info")
    shutil.copytree(HERE / "src", TREE / "src", ignore=ignored)
    folder = TREE / ENGINES
    digest = runpy.run_path(str(HERE / ENGINES / "_sources.py"))["digest"]()
    subprocess.run([sys.executable, "-m", "cython", "-3", "--line-directives", "fast.pyx"], cwd=folder, check=True)
    subprocess.run(
        [
            *(*os.environ.get("CC", "gcc").split(), "-shared", "-fPIC", "-O0", "-fno-strict-aliasing", "--coverage"),
            *(f'-DSMMAP_SOURCES="{digest}"', f"-I{sysconfig.get_paths()['include']}"),
            *("fast.c", "-o", f"fast{sysconfig.get_config_var('EXT_SUFFIX')}"),
        ],
        cwd=folder,
        check=True,
    )
    return folder


def counts(folder: Path) -> dict[str, dict[int, int]]:
    """How often each line of each source ran."""
    (notes,) = folder.glob("*.gcno")
    subprocess.run(["gcov", "--json-format", notes.name], cwd=folder, check=True, capture_output=True)
    found: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for report in folder.glob("*.gcov.json.gz"):
        with gzip.open(report) as file:
            for one in json.load(file)["files"]:
                name = Path(one["file"]).name
                if name.endswith((".pyx", ".pxi")) and (folder / name).exists():
                    for line in one["lines"]:
                        found[name][line["line_number"]] += line["count"]
    return found


def code_lines(path: Path) -> set[int]:
    """The numbers of lines that exist: some code that Cython adds has numbers after the last line's."""
    found, quoted = set(), False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.strip()
        if '"""' in line:
            quoted ^= line.count('"""') == 1
        elif line and not quoted and not line.startswith(NO_CODE) and PRAGMA not in line:
            found.add(number)
    return found


def main() -> int:
    if not (shutil.which("gcov") and shutil.which(os.environ.get("CC", "gcc").split()[0])):
        print("coverage-fast: left out, since gcc and gcov are not there")
        return 0
    folder = build()
    print("coverage-fast:", *(sys.argv[1:] or CHOSEN), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(sys.argv[1:] or CHOSEN)],
        cwd=HERE,
        env={
            **os.environ,
            "PYTHONPATH": str(TREE / "src"),
            "SMMAP_ENGINE": "fast",
            "GCOV_ERROR_FILE": os.devnull,  # tests' children of other users may not count: not a failure
        },
        check=False,
    )
    lines = missed = 0
    for name, ran in sorted(counts(folder).items()):
        known = {number: ran[number] for number in code_lines(folder / name) & set(ran)}
        cold = sorted(number for number, count in known.items() if not count)
        lines, missed = lines + len(known), missed + len(cold)
        print(f"{name:<20} {len(known):>5} lines {100 - 100 * len(cold) / len(known):>6.1f} %  missing: {cold}")
    print(f"{'all':<20} {lines:>5} lines {100 - 100 * missed / lines:>6.1f} %")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
