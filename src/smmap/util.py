"""The import path of smmap 5 for regions and window arithmetic."""

from ._file import MappedFile as MapRegionList
from ._region import MapRegion
from ._window import ALLOCATIONGRANULARITY, MapWindow, align_to_mmap, is_64_bit

__all__ = ["ALLOCATIONGRANULARITY", "MapRegion", "MapRegionList", "MapWindow", "align_to_mmap", "is_64_bit"]
