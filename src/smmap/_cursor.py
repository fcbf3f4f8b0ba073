"""The native client: belongs to one file, pins at most one region, gives zero-copy access to it.

The hot calls (a move within the region, `buffer`, `map`) are in the engine.
"""

from __future__ import annotations

from operator import index
from typing import TYPE_CHECKING, Any

from ._engine import chosen as engine
from ._errors import ClosedError
from ._files import NOBODY, Client, PathOrFd
from ._manager import Manager
from ._system import check_flags

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

__all__ = ["NO_ACCESS", "WindowCursor"]

_NOWHERE = (None, 0, 0)
_REVOKED: Any = tuple([None, 0, 0])  # noqa: C409  # an object of its own
NO_ACCESS = engine.Access.closed(NOBODY)


class WindowCursor(engine.CursorBase):
    """Zero-copy access to one window at a time; made by `manager.make_cursor(path_or_fd)`.

    Belongs to one thread at a time. While it uses a region, that region stays mapped; `close`, `unuse_region`, the
    end of a `with` block or the garbage collector releases it. `WindowCursor(manager)` has no file until `assign`.
    """

    __slots__ = ("_manager",)

    _manager: Manager | None

    def __init__(self, manager: Manager | None = None) -> None:
        if manager is not None and not isinstance(manager, Manager):
            raise TypeError(f"manager must be a window map manager or None, not {type(manager).__name__}")
        self._manager = manager
        self._access = NO_ACCESS
        self._use = _NOWHERE

    @classmethod
    def _of(cls, client: Client) -> Self:
        """A cursor for this client."""
        new = cls.__new__(cls)
        new._manager = client.manager
        new._access = client.manager._access(client, 0, client.size)
        new._use = _NOWHERE
        return new

    def __repr__(self) -> str:
        region, start, stop = self._use
        span = f"[{start}, {stop})" if region is not None else "no region"
        return f"<{type(self).__name__} of {self._name()} {span}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        copy = type(self)(self._manager)
        copy.assign(self)
        return copy

    def __setstate__(self, _state: object) -> None:
        raise TypeError(f"{type(self).__name__} takes no state: what it refers to is checked when it is made")

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError(f"a {type(self).__name__} is not pickled: each process makes its own")

    def assign(self, rhs: WindowCursor) -> None:
        """Become a copy of another cursor: same file, same region, same range. Never touches the file."""
        if not isinstance(rhs, WindowCursor):
            raise TypeError(f"a WindowCursor can only be assigned from another one, not from {type(rhs).__name__}")
        if rhs is self:
            return
        self.unuse_region()
        self._manager = rhs._manager
        self._access = rhs._access
        use = rhs._use  # once: another thread may take the region away
        if use[0] is not None:
            self._pin(*use)

    # Moving

    def _needs(self) -> Client:
        """The client; `ClosedError` or `ValueError` if there is none."""
        client: Client = self._access.client
        if client.given is None:
            raise ValueError(f"{type(self).__name__} has no file: use manager.make_cursor(path_or_fd)")
        if not self._access.opened:
            raise ClosedError(f"{type(self).__name__} of {client.name} is closed")
        return client

    def _move(self, offset: Any, size: Any, flags: Any) -> Self:
        offset, size, flags = index(offset), index(size), check_flags(index(flags))
        client = self._needs()
        if offset < 0 or size < 0:
            raise ValueError(f"offset and size must not be negative: {offset}, {size}")
        if offset >= client.size:
            self.unuse_region()
            return self
        client.manager._move(self, client, offset, size, flags)
        return self

    def unuse_region(self) -> None:
        """Unpin the region. May be called any number of times; never waits."""
        region = self._use[0]
        self._use = _NOWHERE
        if region is not None:
            self._let_go(region)

    def close(self) -> None:
        """Release region and file. May be called any number of times. Views stay valid."""
        self.unuse_region()
        self._access = engine.Access.closed(self._access.client)

    _destroy = close

    @property
    def closed(self) -> bool:
        """Whether it was closed, or its manager was."""
        if self._manager is not None and self._manager._closed:
            return True
        return not self._access.opened and self._access.client.given is not None

    def _revoke(self) -> None:
        """The manager takes the region from the cursor."""
        self._use = _REVOKED

    def _lost(self) -> Exception:
        use = self._use
        client = self._needs()
        if use is _REVOKED:
            client.manager._check_whole(client)
            return ClosedError(f"the map of {client.name} was released by hand or with its manager: make a new cursor")
        return ValueError(f"cursor of {client.name} has no region: call use_region() and check is_valid()")

    # State

    def is_valid(self) -> bool:
        """Whether the cursor has a region now."""
        return self._use[0] is not None

    def is_associated(self) -> bool:
        """Whether the cursor has a file."""
        return bool(self._access.opened)

    def ofs_begin(self) -> int:
        """Where the accessible bytes start in the file, in bytes."""
        return self._use[1]

    def ofs_end(self) -> int:
        """Where the accessible bytes stop in the file, in bytes."""
        return self._use[2]

    def size(self) -> int:
        """How many bytes are accessible; 0 without a region."""
        _, start, stop = self._use
        return stop - start

    def includes_ofs(self, ofs: int) -> bool:
        """Whether the byte at `ofs` of the file is accessible now."""
        _, start, stop = self._use
        return start <= ofs < stop

    def region(self) -> Any:
        """The region in use, as a `MapRegion`, or None."""
        region, manager = self._use[0], self._manager
        return None if region is None or manager is None else manager.MapRegionCls._of(region, manager)

    def file_size(self) -> int:
        """The file's size in bytes when the cursor was made."""
        return int(self._access.client.size)

    def path_or_fd(self) -> PathOrFd:
        """The same object that `make_cursor` was given."""
        given: PathOrFd = self._access.client.given  # None without a file
        return given

    def path(self) -> str | bytes | os.PathLike[str] | os.PathLike[bytes]:
        """The path that `make_cursor` was given; `ValueError` if it was a descriptor."""
        given: Any = self.path_or_fd()
        if given is None or isinstance(given, int):
            raise ValueError(f"cursor of {self._name()} has no path")
        return given  # type: ignore[no-any-return]

    def fd(self) -> int:
        """The descriptor that `make_cursor` was given; `ValueError` if it was a path."""
        given = self.path_or_fd()
        if not isinstance(given, int):
            raise ValueError(f"cursor of {self._name()} has no descriptor")
        return given

    def _name(self) -> str:
        client: Client = self._access.client
        return "no file" if client.given is None else client.name


Manager.WindowCursorCls = WindowCursor
