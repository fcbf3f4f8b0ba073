"""`python -m smmap`: which smmap this is and which engine runs; with arguments, the command `smmap`.

Needs only the standard library, and as little of the package as possible: it has to report what is wrong with an
installation in which another distribution of the same name has overwritten files.
"""

from __future__ import annotations

from . import _starting

_starting.quiet()

import os
import platform
import sys

from ._installation import overwritten

__all__ = ["main", "overwritten", "report"]


def _recorded() -> str:
    """The version that pip has on record for the running files; empty if there is none."""
    from importlib import metadata

    try:
        distribution = metadata.distribution("smmap")
        if os.path.samefile(str(distribution.locate_file("smmap/__main__.py")), __file__):
            return distribution.version
    except (OSError, metadata.PackageNotFoundError):
        pass
    return ""


def report() -> tuple[list[str], bool]:
    """The lines that describe this installation, and whether it is sound."""
    folder = os.path.dirname(os.path.abspath(__file__))
    import smmap

    version = getattr(smmap, "__version__", "of unknown version")
    system = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}"
    found = overwritten()
    recorded = _recorded()
    if found or recorded not in ("", version):
        files = f" and has overwritten {', '.join(found)}" if found else ""
        other = recorded or version
        return [
            f"smmap {other} from the package index was installed over this smmap in {folder}{files}.",
            "`pip install --ignore-installed` does that with gitpython and with any other package that needs gitdb.",
            "Remove it with `pip uninstall`, and install this smmap again from its wheel or its sources. To keep it,",
            "use a constraints file that names its wheel (`smmap @ file:///...whl`), or `--no-deps`.",
        ], False
    return [
        f"smmap {version} in {folder}",
        f"{system}",
        f"engine {smmap.engine}" + (f" ({smmap.engine_error})" if smmap.engine_error else ""),
        "commands: python -m smmap --help",
    ], True


def main(arguments: list[str]) -> int:
    """Report, or run a command; return the exit status."""
    if arguments and not overwritten():
        from smmap.cli import main as run

        return run(arguments)
    _starting.restore()
    lines, sound = report()
    print(*lines, sep="\n", file=sys.stdout if sound else sys.stderr)
    return 0 if sound else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
