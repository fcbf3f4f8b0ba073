"""The import path of smmap 5 for managers and cursors."""

from ._cursor import WindowCursor
from ._managers import SlidingWindowMapManager, StaticWindowMapManager

__all__ = ["SlidingWindowMapManager", "StaticWindowMapManager", "WindowCursor"]
