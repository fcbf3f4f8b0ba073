"""The default manager of a process, which is made at its first use from `configure` or the environment.

Also the functions that use it unless they are given another one.
"""

from __future__ import annotations

import os
from collections.abc import Container
from typing import Any, Literal, overload

from ._buffer import Advice, SlidingWindowMapBuffer
from ._errors import SmmapError
from ._files import PathOrFd
from ._lock import Lock
from ._managers import Backing, Guard, SlidingWindowMapManager, StaticWindowMapManager
from ._reader import BufferedFileReader, FileReader, open_reader
from ._sizes import parse_size

__all__ = ["buffer", "chosen", "configure", "default_manager", "open", "settings"]

_VARIABLES = {
    "window_size": "SMMAP_WINDOW_SIZE",
    "max_memory_size": "SMMAP_MAX_MEMORY",
    "max_open_handles": "SMMAP_MAX_HANDLES",
    "backing": "SMMAP_BACKING",
    "guard": "SMMAP_GUARD",
}

_lock = Lock()
_manager: SlidingWindowMapManager | None = None
_settings: dict[str, Any] = {}


def configure(
    *,
    window_size: int | str | None = None,
    max_memory_size: int | str | None = None,
    max_open_handles: int | str | None = None,
    backing: Backing | None = None,
    guard: Guard | None = None,
) -> None:
    """Set the arguments of the default manager: see `SlidingWindowMapManager`. None leaves a setting as it is.

    Sizes are numbers of bytes, or text like "64M". Settings take precedence over the environment's `SMMAP_WINDOW_SIZE`,
    `SMMAP_MAX_MEMORY`, `SMMAP_MAX_HANDLES`, `SMMAP_BACKING` and `SMMAP_GUARD`. Opens and maps nothing. Raises
    `SmmapError` if the default manager is already in use, and `TypeError` and `ValueError` as the manager does; earlier
    settings then stay. Any thread may call it.
    """
    given = {
        "window_size": window_size,
        "max_memory_size": max_memory_size,
        "max_open_handles": max_open_handles,
        "backing": backing,
        "guard": guard,
    }
    _lock.run(_configure_locked, {name: value for name, value in given.items() if value is not None})


def default_manager() -> SlidingWindowMapManager:
    """The process's manager, made at the first call; a forked child makes its own. Any thread may call it.

    Raises `ValueError` for an environment variable that is not a valid size, backing or guard, unless `configure`
    overrides it. Once the manager has been closed, the next call makes another one.
    """
    return _in_use() or _lock.run(_make_locked)


def buffer(
    path_or_fd: PathOrFd,
    offset: int = 0,
    size: int | None = None,
    *,
    manager: StaticWindowMapManager | None = None,
    access: Advice = "normal",
) -> SlidingWindowMapBuffer:
    """A bytes-like buffer over a file: `size` bytes from `offset`, or all bytes from there.

    Uses the process's default manager unless another is given. Opens and checks the file, but maps nothing before the
    first read. `access`: "random" or "sequential" advises the system how maps will be read (`madvise`). "random" makes
    random reads of data that is not yet in memory faster, but sequential reads much slower; the default, "normal",
    suits both. Raises `ValueError` for an offset past the end, and the system's error for a file that cannot be
    opened.
    """
    return chosen(manager).buffer(path_or_fd, offset, size, access=access)


@overload
def open(  # type: ignore[overload-overlap]  # noqa: A001
    path: PathOrFd,
    mode: Literal["rb", "br"] = "rb",
    *,
    buffering: Literal[0],
    manager: StaticWindowMapManager | None = None,
) -> FileReader: ...


@overload
def open(  # type: ignore[overload-overlap]  # noqa: A001
    path: PathOrFd, mode: Literal["rb", "br"], buffering: Literal[0], *, manager: StaticWindowMapManager | None = None
) -> FileReader: ...


@overload
def open(  # noqa: A001
    path: PathOrFd,
    mode: Literal["rb", "br"] = "rb",
    buffering: int = -1,
    *,
    manager: StaticWindowMapManager | None = None,
) -> BufferedFileReader: ...


def open(  # noqa: A001
    path: PathOrFd,
    mode: Literal["rb", "br"] = "rb",
    buffering: int = -1,
    *,
    manager: StaticWindowMapManager | None = None,
) -> FileReader | BufferedFileReader:
    """A file object for reading bytes, like that of `open(path, "rb")`, through managed windows.

    `path`: str, bytes, os.PathLike, or a descriptor, which stays yours. `mode` must be "rb", its default. A mode that
    would write raises `io.UnsupportedOperation`; a text mode raises a `ValueError` that says how to wrap the file
    object in `io.TextIOWrapper`. `buffering` is as for the built-in `open`: the buffer's size in bytes, 0 for the raw
    file object, negative for `io.DEFAULT_BUFFER_SIZE`. Uses the process's default manager unless another is given.

    Opens and checks the file, maps nothing before the first read, and holds no map and no descriptor of its own: any
    number of files may be open. Raises the system's error for a file that cannot be opened, and `OSError` for anything
    but a regular file. Any thread may call it; use a file object from one thread at a time, or under a lock, as
    `zipfile` does.
    """
    return open_reader(chosen(manager), path, mode, buffering, "smmap.open")


def chosen(manager: Any) -> StaticWindowMapManager:
    """The given manager, or the default manager for None; `TypeError` for anything else."""
    if manager is None:
        return default_manager()
    if not isinstance(manager, StaticWindowMapManager):
        raise TypeError(f"manager must be a window map manager or None, not {type(manager).__name__}")
    return manager


def settings(**given: Any) -> dict[str, Any]:
    """The arguments for a new manager: the given ones, then those of `configure`, then those of the environment.

    An environment variable is read only if nothing takes precedence over it.
    """
    return _lock.run(_settings_locked, given)


def _configure_locked(given: dict[str, Any]) -> None:
    if _in_use() is not None:
        raise SmmapError("the default manager is already in use: call configure() before the first use")
    wanted = {**_settings, **given}
    SlidingWindowMapManager(**wanted)
    _settings.update(wanted)


def _make_locked() -> SlidingWindowMapManager:
    global _manager
    manager = _in_use()
    if manager is None:
        manager = _manager = SlidingWindowMapManager(**_settings_locked({}))
    return manager


def _settings_locked(given: dict[str, Any]) -> dict[str, Any]:
    known = {**_settings, **given}
    return {**_from_environment(known), **known}


def _in_use() -> SlidingWindowMapManager | None:
    manager = _manager
    return None if manager is None or manager.closed else manager


def _from_environment(known: Container[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, variable in _VARIABLES.items():
        text = os.environ.get(variable)
        if text and name not in known:
            try:
                found[name] = text.strip() if name in ("backing", "guard") else parse_size(text)
                SlidingWindowMapManager(**{name: found[name]})
            except ValueError as error:
                raise ValueError(f"environment variable {variable}: {error}") from None
    return found


def _after_fork_in_child() -> None:
    global _manager
    _manager = None


SlidingWindowMapBuffer._default_manager = staticmethod(default_manager)
if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none
    os.register_at_fork(after_in_child=_after_fork_in_child)
