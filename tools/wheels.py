"""Builds and tries out everything that a release consists of: `make wheels`.

That is an sdist and, built from it, a wheel with the plain engine for every system and Python, and a wheel with the
fast engine for each Python that is found here (see pythons.py). twine, check-wheel-contents and auditwheel check all of
them. Each wheel is installed into an empty environment, where it has to read a file with its engine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from pythons import FOUND, MISSING

HERE = Path(__file__).resolve().parents[1]

TRY = """
import os, sys, tempfile
import smmap
data = os.urandom(100_000)
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "file")
    with open(path, "wb") as file:
        file.write(data)
    with smmap.SlidingWindowMapManager(8192, 32768) as manager:
        buffer = manager.buffer(path)
        assert len(buffer) == len(data) and buffer[:] == data and buffer[77_777] == data[77_777]
        assert buffer.view(8000, 9000) == data[8000:9000] and buffer.find(data[-99:]) == len(data) - 99
        cursor = manager.make_cursor(path).use_region(50_000, 99)
        assert bytes(cursor.buffer()) == data[50_000:50_099]
        del cursor, buffer
        manager.collect()
        assert manager.stats().mapped == 0
print(smmap.__version__, smmap.engine, "Python", sys.version.split()[0], smmap.engine_error)
sys.exit(smmap.engine != sys.argv[1])
"""


def run(*command: object, **environment: str) -> str:
    """The output of a command; a failure ends everything."""
    steers = ("PYTHON", "SMMAP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(steers)}
    done = subprocess.run(
        list(map(str, command)),
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def takes_fast(command: str) -> bool:
    """Whether the fast engine is built for this Python."""
    ask = "import sys, sysconfig; print(sys.implementation.name, bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
    name, free = run(command, "-c", ask).split()
    older = run(command, "-c", "import sys; print(sys.version_info < (3, 14))").strip() == "True"
    return name == "cpython" and (free == "False" or older)  # as in setup.py


def try_wheel(command: str, wheel: Path, engine: str) -> None:
    """Install a wheel into an empty environment and read a file there."""
    with tempfile.TemporaryDirectory() as folder:
        run(command, "-m", "venv", folder)
        python = Path(folder, "bin", "python")
        run(python, "-m", "pip", "--quiet", "install", "--no-index", "--no-deps", wheel)
        print(f"  tried: {run(python, '-I', '-c', TRY, engine).strip()}", flush=True)


def build(dist: Path, chosen: dict[str, str]) -> None:
    """Everything that is released."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", dist, HERE)
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["src/smmap/_engine/fast.c", "src/smmap/_engine/fast.pyx", "Makefile", "mkdocs.yml", "tests/conftest.py"]
    if (HERE / ".git").exists():
        tracked = run("git", "-C", HERE, "ls-files").splitlines()
        wanted += [name for name in tracked if (HERE / name).exists() and not name.startswith(".")]
    missing = [name for name in wanted if name not in names]
    if missing:
        sys.exit(f"{sdist.name} lacks {missing}")
    print(f"{sdist.name}: {len(names)} files", flush=True)
    pip = ["-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--wheel-dir", dist, sdist]
    run(sys.executable, *pip, SMMAP_BUILD="plain")
    (plain,) = dist.glob("*.whl")
    print(plain.name, flush=True)
    if not plain.name.endswith("-py3-none-any.whl"):
        sys.exit("the wheel with the plain engine is not for every system")
    for python, command in chosen.items():
        if not takes_fast(command):
            print(f"Python {python} takes the plain wheel", flush=True)
            try_wheel(command, plain, "plain")
            continue
        before = set(dist.glob("*.whl"))
        run(command, *pip, SMMAP_BUILD="fast")
        (wheel,) = set(dist.glob("*.whl")) - before
        print(wheel.name, flush=True)
        try_wheel(command, wheel, "fast")
    try_wheel(sys.executable, plain, "plain")


def check(dist: Path) -> None:
    """Check the files with the tools."""
    files = sorted(dist.iterdir())
    print(run(sys.executable, "-m", "twine", "check", "--strict", *files))
    print(run(sys.executable, "-m", "check_wheel_contents", dist))
    for wheel in dist.glob("*linux*.whl"):
        said = run(sys.executable, "-m", "auditwheel", "show", wheel)
        print(wheel.name, *said.split())


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds and tries all that a release consists of.")
    parser.add_argument("--dist", type=Path, default=HERE / "dist")
    parser.add_argument("--only", help="for these Pythons only, separated by commas")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else list(FOUND)
    if MISSING:
        print("not found, left out:", *MISSING)
    shutil.rmtree(args.dist, ignore_errors=True)
    args.dist.mkdir(parents=True)
    build(args.dist.resolve(), {python: FOUND[python] for python in only})
    check(args.dist.resolve())
    print(f"all in {args.dist}")


if __name__ == "__main__":
    main()
