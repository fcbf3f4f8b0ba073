"""The protocols by which array libraries take an object: numpy's and DLPack.

Knows nothing of files. Imports numpy only when a library asks, so that the core does not need it.
"""

from __future__ import annotations

import sys
from typing import Any

from ._engine import engine
from ._errors import ClosedError

__all__ = ["Exchanged", "ExchangedBytes", "exported"]

_CPU = 1, 0  # kDLCPU, and the number of the device


class Exchanged:
    """Adds DLPack to a class with `__array__`: `torch.as_tensor(it)`, `numpy.from_dlpack(it)`."""

    __slots__ = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """An array over the object."""
        raise NotImplementedError

    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU's memory. Opens nothing."""
        return _CPU

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule, marked as read-only and without a copy if its consumer asks for version 1.0 or later.

        It is a copy for a consumer of an earlier version, which cannot learn that it must not write, and if DLPack
        cannot express the order of the elements; `BufferError` if `copy` is False then. `BufferError` also for a dtype
        or device that DLPack or this object does not support. Needs numpy. Any thread may call it.
        """
        try:
            array = self.__array__(copy=False if copy is False else None)
        except ImportError as error:
            raise ModuleNotFoundError(
                "an object of smmap needs numpy for DLPack: pip install numpy", name="numpy"
            ) from error
        except ValueError as error:
            if copy is not False or isinstance(error, ClosedError):
                raise
            raise BufferError(f"only a copy can be exchanged: {error}") from error
        return exported(array, stream, max_version, dl_device, copy)


class ExchangedBytes(Exchanged):
    """Gives a class with `view` zero-copy arrays of its bytes."""

    __slots__ = ()

    def __array__(self: Any, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy  # the caller has it: pandas, since numpy itself uses the buffer protocol

        view = self.view()
        return numpy.asarray(view, dtype) if copy is None else numpy.array(view, dtype, copy=copy)

    if engine == "plain" and sys.version_info < (
        3,
        12,
    ):  # pragma: no branch  # there is no buffer protocol, which would take precedence

        @property
        def __array_interface__(self: Any) -> dict[str, Any]:
            """For numpy, which keeps the view and trusts the shape: so the shape is that of the view."""
            view = self.view()
            return {"version": 3, "shape": (len(view),), "typestr": "|u1", "data": view}


def exported(array: Any, stream: Any, max_version: Any, dl_device: Any, copy: bool | None) -> Any:
    """The capsule of a read-only numpy array. See `Exchanged.__dlpack__`."""
    import numpy  # already imported, since there is an array

    array = numpy.asarray(array)
    if stream is not None:
        raise BufferError(f"the memory of the CPU has no streams: stream must be None, not {stream!r}")
    if dl_device is not None and tuple(map(int, dl_device)) != _CPU:
        raise BufferError(f"only in the memory of the CPU, device {_CPU}, not {dl_device}")
    if array.dtype.names is not None:
        raise BufferError(f"DLPack has no fields: exchange one field of {array.dtype} at a time")
    marks = max_version is not None and max_version[0] >= 1 and numpy.lib.NumpyVersion(numpy.__version__) >= "2.1.0"
    versions = {"max_version": max_version} if marks else {}
    in_order = all(stride >= 0 and not stride % (array.itemsize or 1) for stride in array.strides)
    if versions and not copy and in_order and array.dtype.isnative:
        return array.__dlpack__(**versions)
    if copy is False:
        what = f"{array.dtype} with strides {array.strides}" if versions else "read-only memory by DLPack before 1.0"
        raise BufferError(f"only a copy can be exchanged, not {what}")
    return numpy.array(array, array.dtype.newbyteorder("="), order="C").__dlpack__(**versions)
