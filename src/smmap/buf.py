"""The import path of smmap 5 for buffers."""

from ._buffer import SlidingWindowMapBuffer

__all__ = ["SlidingWindowMapBuffer"]
