"""What is done under a lock that is free again afterwards, whatever the handler of a signal raises meanwhile."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

__all__ = ["under"]

T = TypeVar("T")


def under(lock: Any, operation: Callable[..., T], *args: Any) -> T:
    """`operation(*args)` under `lock`, a `threading.RLock`.

    `with` alone is not enough: CPython 3.14 lets a handler run after the lock was taken and before the block begins,
    3.9 and 3.10 after the block and before the lock is let go. What the handler raises then leaves the lock taken.
    """
    nested = lock._is_owned()  # threading.Condition asks for it, too
    try:
        with lock:
            return operation(*args)
    except BaseException:
        if not nested and lock._is_owned():
            lock.release()
        raise
