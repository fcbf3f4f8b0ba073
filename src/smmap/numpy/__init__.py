"""Arrays over managed windows: `load` for `.npy` and `.npz` files, `memmap` for raw ones, `Shards` for many as one.

Needs numpy; `import smmap` alone does not import this package.
"""

from .._installation import complaint

if _complaint := complaint(__name__):  # otherwise an import below would fail without saying why
    raise ImportError(_complaint, name=__name__)

try:
    import numpy
except ImportError as error:
    raise ModuleNotFoundError("smmap.numpy needs numpy: pip install numpy", name="numpy") from error

from ._arrays import MappedArray
from ._lazy import LazyArray
from ._load import load, memmap
from ._npz import MappedNpz
from ._shards import Shards

del complaint, numpy

__all__ = ["LazyArray", "MappedArray", "MappedNpz", "Shards", "load", "memmap"]
