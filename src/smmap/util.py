"""The import path of smmap 5 for regions and window arithmetic."""

from ._compat import MapRegion, MapRegionList, MapWindow
from ._window import ALLOCATIONGRANULARITY, align_to_mmap, is_64_bit

__all__ = ["ALLOCATIONGRANULARITY", "MapRegion", "MapRegionList", "MapWindow", "align_to_mmap", "is_64_bit"]
