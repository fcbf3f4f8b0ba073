"""Whether the files of this package are its own, or another distribution of the same name has overwritten some of them.

Uses only the standard library, and as little of the package as possible: most of it may not work in that case.
"""

from __future__ import annotations

import importlib
import os

__all__ = ["complaint", "overwritten"]

_OURS = {  # for the files that both distributions have: a public name, and the module that defines it here
    "": ("SlidingWindowMapBuffer", "_buffer"),
    "buf": ("SlidingWindowMapBuffer", "_buffer"),
    "mman": ("SlidingWindowMapManager", "_managers"),
    "util": ("MapRegion", "_compat"),
}


def overwritten() -> list[str]:
    """The files of this package that another distribution has overwritten."""
    found = []
    for name, (public, home) in _OURS.items():
        try:
            module = importlib.import_module(f"smmap.{name}" if name else "smmap")
            if getattr(module, public).__module__ == f"smmap.{home}":
                continue
        except (ImportError, AttributeError):
            pass
        found.append(f"{name or '__init__'}.py")
    return found


def complaint(module: str) -> str:
    """The message of that module's `ImportError` if files were overwritten; empty if the installation is sound."""
    found = overwritten()
    if not found:
        return ""
    import smmap

    version = getattr(smmap, "__version__", "of unknown version")
    folder = os.path.dirname(os.path.abspath(__file__))
    return (
        f"{module} cannot be imported: smmap {version} from the package index was installed over this smmap in {folder}"
        f" and has overwritten {', '.join(found)}. "
        "Remove it with `pip uninstall`, and install this smmap again from its wheel or its sources."
    )
