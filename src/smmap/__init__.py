"""Read-only sliding window memory maps of many files, within limits: an implementation of smmap's interface."""

from ._buffer import SlidingWindowMapBuffer, buffer
from ._cursor import WindowCursor
from ._default import configure, default_manager
from ._errors import ClosedError, FileChangedError, LimitError, ReentryError, SmmapError
from ._ledger import Stats
from ._manager import SlidingWindowMapManager, StaticWindowMapManager
from ._reader import open as open  # noqa: A004  # not in __all__: `from smmap import *` leaves the built-in alone

__version__ = "5.1.0"
version_info = tuple(int(number) for number in __version__.split("."))

__all__ = [
    "ClosedError",
    "FileChangedError",
    "LimitError",
    "ReentryError",
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
    "version_info",
]
