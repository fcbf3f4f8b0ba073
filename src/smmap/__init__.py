"""Read-only sliding-window memory maps of many files, within limits: an implementation of smmap's interface."""

import os as _os

from . import _starting

_starting.quiet()  # does nothing except in the command

from . import _compat as _compat
from ._buffer import SlidingWindowMapBuffer
from ._cache import Stats
from ._cursor import WindowCursor
from ._default import buffer, configure, default_manager
from ._default import open as open  # noqa: A004  # not in __all__: `from smmap import *` leaves the built-in alone
from ._engine import engine, engine_error
from ._errors import ClosedError, FileChangedError, LimitError, ReentryError, SmmapError
from ._managers import SlidingWindowMapManager, StaticWindowMapManager
from ._report import RegionInfo

__version__ = "5.1.0"
version_info = tuple(int(number) for number in __version__.split("."))

__all__ = [
    "ClosedError",
    "FileChangedError",
    "LimitError",
    "ReentryError",
    "RegionInfo",
    "SlidingWindowMapBuffer",
    "SlidingWindowMapManager",
    "SmmapError",
    "StaticWindowMapManager",
    "Stats",
    "WindowCursor",
    "__version__",
    "buffer",
    "configure",
    "default_manager",
    "engine",
    "engine_error",
    "version_info",
]

if _os.environ.get("SMMAP_TRACE"):
    from . import _trace

    _trace.start_from_environment(_os.environ["SMMAP_TRACE"])
