"""Arrays over managed windows: `load` for one `.npy` file, `Shards` for one long array over many files.

Needs numpy; `import smmap` alone does not import this package.
"""

try:
    import numpy
except ImportError as error:
    raise ModuleNotFoundError("smmap.numpy needs numpy: pip install numpy", name="numpy") from error

from ._arrays import MappedArray, load
from ._lazy import LazyArray
from ._shards import Shards

del numpy

__all__ = ["LazyArray", "MappedArray", "Shards", "load"]
