"""Builds the fast engine where there is a C compiler; everything else is in pyproject.toml.

Without a compiler, and on PyPy and Windows, only the plain engine is installed. The same goes for free-threaded Python
3.14 and later, where the fast engine has not been run yet: there, SMMAP_BUILD=fast builds it. pip hides the output of a
build, so the reason is written to a file next to the engines, and `smmap.engine_error` and `python -m smmap` report it.
With SMMAP_BUILD=plain in the environment the fast engine is not built; with SMMAP_BUILD=fast the build fails if it
cannot be built. SMMAP_CFLAGS is added to the compiler's flags (and to the linker's), for example for sanitizers.
"""

import os
import re
import runpy
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
ENGINES = Path("src", "smmap", "_engine")
REASON = "fast-not-built.txt"

wish = os.environ.get("SMMAP_BUILD", "")
if wish not in ("", "plain", "fast"):
    sys.exit(f'SMMAP_BUILD must be "plain" or "fast", not {wish!r}')


def missing() -> str:
    """Why the fast engine is not built here; empty if it is tried."""
    if wish == "plain":
        return 'SMMAP_BUILD was "plain" when this was built (`pip install --no-binary smmap smmap` builds the fast one)'
    if sys.implementation.name != "cpython":
        return f"the fast engine is not built for {sys.implementation.name}"
    if os.name != "posix":
        return "the fast engine is only built on Linux and macOS"
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info >= (3, 14) and wish != "fast":
        return "the fast engine has not been run on this free-threaded Python yet (it is built if SMMAP_BUILD is fast)"
    return ""


def extension() -> Extension:
    """The fast engine."""
    flags = os.environ.get("SMMAP_CFLAGS", "").split()
    digest = runpy.run_path(str(HERE / ENGINES / "_sources.py"))["digest"]()
    return Extension(
        "smmap._engine.fast",
        [str(ENGINES / "fast.pyx")],
        depends=[str(path) for kind in ("pyx", "pxi", "h") for path in sorted(ENGINES.glob(f"*.{kind}"))],
        define_macros=[("SMMAP_SOURCES", f'"{digest}"')],
        extra_compile_args=["-fno-strict-aliasing", *flags],
        extra_link_args=flags,
    )


def c_sources() -> list[str]:
    """The C source that Cython generates; without Cython, the C source in the sdist."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        return [str(ENGINES / "fast.c")]
    return cythonize(str(ENGINES / "fast.pyx"))[0].sources


def short(error: str) -> str:
    """The part of a compiler error that a user has to know: the error contains the whole command."""
    failed = re.match(r"[Cc]ommand '(?:\['([^']+)'.*|([^' ]+).*')", error, re.DOTALL)
    if failed is None:
        return error
    return f"the C compiler, {failed[1] or failed[2]}, failed; `SMMAP_BUILD=fast pip install -v .` shows how"


class Build(build_ext):
    """Builds what it can, and says why the rest cannot be built."""

    def run(self) -> None:
        path = (HERE / ENGINES if self.inplace else Path(self.build_lib, *ENGINES.parts[1:])) / REASON
        path.unlink(missing_ok=True)
        try:
            for engine in self.extensions:
                engine.sources = c_sources()
            super().run()
        except Exception as error:
            if wish == "fast":
                raise
            print(f"smmap: the fast engine cannot be built ({error}); the plain one is installed", file=sys.stderr)
            self.extensions = []
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"the fast engine could not be built: {short(str(error))}\n", encoding="utf-8")


class Modules(build_py):
    """Records why the fast engine is not built."""

    def run(self) -> None:
        super().run()
        if reason:
            path = (HERE / ENGINES if self.editable_mode else Path(self.build_lib, *ENGINES.parts[1:])) / REASON
            path.write_text(f"{reason}\n", encoding="utf-8")


class Sources(sdist):
    """Adds the C source to an sdist, so that it can be built without Cython."""

    def run(self) -> None:
        c_sources()
        super().run()


reason = missing()
if reason:
    print(f"smmap: the plain engine alone is installed, since {reason}", file=sys.stderr)
COMMANDS = {"build_ext": Build, "build_py": Modules, "sdist": Sources}
setup(ext_modules=[] if reason else [extension()], cmdclass=COMMANDS)
