"""A mapped array as it arrives from a pickle: not mapped yet."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from .._buffer import SlidingWindowMapBuffer
from .._errors import refuse_state
from .._interop import Exchanged
from ._arrays import Array, Layout, MappedArray, mapped, reach
from ._npy import fully_named, long, plain, short

__all__ = ["LazyArray"]


class LazyArray(Exchanged):
    """A `MappedArray` as it arrives from a pickle: it maps its range at its first use, and then works like the array.

    Shape, dtype and sizes are known before; `repr`, copying and pickling do not open the file either. Anything else
    that an array does opens the path once, on the default manager of the process where the object arrives. That raises
    `FileChangedError` if the file changed in between, `LimitError` if no handle is left, or the system's error, again
    at each use. Slices, methods and operators give what the array would, and numpy's functions accept it.
    `np.asarray(it)` and, by DLPack, `torch.as_tensor(it)` copy nothing. It is not an `np.ndarray` itself, nor
    bytes-like: pass `np.asarray(it)` to code that needs one of those. Any number of threads may share it.
    """

    __hash__ = None  # type: ignore[assignment]  # as for arrays, whose `==` is elementwise

    __setstate__ = refuse_state

    _array: MappedArray | None = None

    if TYPE_CHECKING:  # they are set below
        __getitem__: Any
        __contains__: Any
        __iter__: Any
        __bool__: Any
        __int__: Any
        __float__: Any
        __complex__: Any
        __bytes__: Any
        __neg__: Any
        __pos__: Any
        __abs__: Any
        __invert__: Any
        __lt__: Any
        __le__: Any
        __gt__: Any
        __ge__: Any
        __add__: Any
        __sub__: Any
        __mul__: Any
        __matmul__: Any
        __truediv__: Any
        __floordiv__: Any
        __mod__: Any
        __pow__: Any
        __lshift__: Any
        __rshift__: Any
        __and__: Any
        __or__: Any
        __xor__: Any
        __radd__: Any
        __rsub__: Any
        __rmul__: Any
        __rmatmul__: Any
        __rtruediv__: Any
        __rfloordiv__: Any
        __rmod__: Any
        __rpow__: Any
        __rlshift__: Any
        __rrshift__: Any
        __rand__: Any
        __ror__: Any
        __rxor__: Any

        def __eq__(self, other: object) -> Any: ...
        def __ne__(self, other: object) -> Any: ...

    def __init__(
        self,
        data: SlidingWindowMapBuffer,
        offset: int,
        dtype: Any,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None,
    ) -> None:
        if not isinstance(data, SlidingWindowMapBuffer):
            raise TypeError(f"data must be a buffer of smmap, not {type(data).__name__}")
        shape = tuple(map(operator.index, shape))
        strides = None if strides is None else tuple(map(operator.index, strides))
        if strides is not None and len(strides) != len(shape):
            raise ValueError(f"strides {strides} are not those of the shape {shape}")
        self._layout = Layout(data, operator.index(offset), plain(long(dtype)), shape, strides)
        reach(self._layout)

    def __repr__(self) -> str:
        return (
            f"<smmap.numpy.LazyArray of shape {self.shape}, {self.dtype}, in {self._layout.data._access.client.name}>"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyArray, tuple(self._layout._replace(dtype=short(self.dtype)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each dimension."""
        return self._layout.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The elements' dtype."""
        return self._layout.dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes in an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes in all elements."""
        return self.size * self.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    # What opens it

    def _open(self) -> MappedArray:
        array = self._array
        if array is None:
            array = self._array = mapped(self._layout)
        return array

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(MappedArray, name):  # asking for a protocol opens nothing
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._open(), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(MappedArray) if not name.startswith("_"))})

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The memory of the array, which this object keeps mapped. Missing for dtypes that it cannot describe fully:
        those with fields or metadata, and those that other libraries define."""
        if not fully_named(self.dtype):
            raise AttributeError("__array_interface__")
        return np.asarray(self._open()).__array_interface__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self._open()
        wanted = array.dtype if dtype is None else np.dtype(dtype)
        if copy is False and wanted != array.dtype:
            raise ValueError(f"an array of {wanted} over elements of {array.dtype} is always a copy")
        return array.astype(wanted, copy=bool(copy))

    def __index__(self) -> int:
        if self.shape:  # arrays raise TypeError, after which bytearray(it) would take each element as a byte
            raise ValueError("only an array of one integer, without dimensions, is an index")
        return operator.index(self._open())

    def __setitem__(self, key: Any, value: Any) -> None:
        raise ValueError("assignment destination is read-only")  # as arrays say it; needs no file

    def __divmod__(self, other: Any) -> Any:
        return divmod(self._open(), _opened(other))

    def __rdivmod__(self, other: Any) -> Any:
        return divmod(_opened(other), self._open())


def _opened(thing: Any) -> Any:
    return thing._open() if isinstance(thing, LazyArray) else thing


def _done(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A special method that applies the operation to the array, and to those of other lazy operands."""

    def method(self: LazyArray, *others: Any) -> Any:
        return operation(self._open(), *map(_opened, others))

    return method


def _turned(operation: Callable[..., Any]) -> Callable[..., Any]:
    """The special method for the array on the right-hand side."""

    def method(self: LazyArray, other: Any) -> Any:
        return operation(_opened(other), self._open())

    return method


_CONVERSIONS: dict[str, Callable[..., Any]] = {
    "bool": bool,
    "int": int,
    "float": float,
    "complex": complex,
    "bytes": bytes,
    "format": format,
    "iter": iter,
}
_UNARY = ["neg", "pos", "abs", "invert"]
_BINARY = ["add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or", "xor"]
_OTHERS = ["getitem", "contains", "lt", "le", "eq", "ne", "gt", "ge", *(f"i{name}" for name in _BINARY)]

for _name, _operation in _CONVERSIONS.items():
    setattr(LazyArray, f"__{_name}__", _done(_operation))
for _name in [*_UNARY, *_BINARY, *_OTHERS]:
    setattr(LazyArray, f"__{_name}__", _done(getattr(operator, f"__{_name}__")))
for _name in _BINARY:
    setattr(LazyArray, f"__r{_name}__", _turned(getattr(operator, f"__{_name}__")))

MappedArray._Lazy = LazyArray
