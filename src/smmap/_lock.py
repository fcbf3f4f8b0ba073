"""The lock of a manager, and how it copes with signal handlers, finalizers and forks. Knows nothing of what it
protects."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from functools import partial
from operator import methodcaller
from typing import Any, Callable, TypeVar

from ._errors import ReentryError
from ._system import release_all

__all__ = ["Lock"]

T = TypeVar("T")

_locks: dict[int, weakref.ref[Lock]] = {}
_numbers = itertools.count()
_PATIENCE = 0.1  # seconds
_release_one = methodcaller("release")


class _Thread(threading.local):
    """The locks that a thread holds at this moment."""

    rlock: Any = None
    """That of an operation: a finalizer or signal handler may interrupt the thread there."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        """Those that were taken for a fork."""


_thread = _Thread()


class Lock:
    """Runs operations one at a time, and never waits where waiting might not end.

    A finalizer or signal handler may run in the middle of an operation, in the same thread. There, an operation under
    the same lock is refused, and an operation under another lock is refused if that lock is not free: two threads that
    wait for each other's locks in this way would wait forever. An operation that must neither wait nor be refused is
    noted (`soon`), and carried out by the next holder of the lock before anything else. After that, `_settle` of the
    owner is called, to which `owner` is a weak reference.
    """

    __slots__ = ("__weakref__", "_notes", "_owner", "_rlock")

    def __init__(self, owner: Callable[[], Any] = lambda: None) -> None:
        self._rlock: Any = threading.RLock()
        self._notes: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._owner = owner
        number = next(_numbers)
        _locks[number] = weakref.ref(self, partial(_locks.pop, number))

    def run(self, operation: Callable[..., T], *args: Any) -> T:
        """`operation(*args)`, once the lock is free; `ReentryError` where waiting is not allowed."""
        rlock, outer, may_wait = self._rlock, _thread.rlock, self.may_wait()
        if not rlock._is_owned():
            try:
                if may_wait or rlock.acquire(blocking=False):
                    with rlock:
                        if not may_wait:
                            rlock.release()  # it is taken twice: only a `with` block releases it whatever happens
                        _thread.rlock = rlock
                        self._settle_all()
                        return operation(*args)
            finally:
                _release(rlock, outer)
                if self._notes:  # of calls that did not wait in the meantime
                    self._attempt()
        raise ReentryError(
            "a finalizer or signal handler interrupted a call of a manager in its own thread, and cannot wait for a "
            "busy manager there: use smmap there only to close or to release"
        )

    def may_wait(self) -> bool:
        """Whether this thread may wait for the lock: not where it interrupted an operation under another one."""
        outer = _thread.rlock
        return outer is None or not outer._is_owned()

    def soon(self, operation: Callable[..., object], *args: Any) -> None:
        """Have the operation done at once if the lock is free, otherwise by its next holder. Never waits, so finalizers
        may call it.

        If an exception interrupts the operation, it may be done twice, which must change nothing.
        """
        self._notes.append((operation, args))
        self._attempt()

    def _attempt(self) -> None:
        """Carry out the notes, if the lock is free."""
        rlock, outer = self._rlock, _thread.rlock
        if rlock._is_owned():
            return
        try:
            if rlock.acquire(blocking=False):
                with rlock:
                    rlock.release()  # as above
                    _thread.rlock = rlock
                    self._settle_all()
        finally:
            _release(rlock, outer)

    def _settle_all(self) -> None:
        notes = self._notes
        while notes:
            operation, args = notes[0]
            operation(*args)
            del operation, args
            notes.popleft()  # last: an exception before it must not lose the note
        owner = self._owner()
        if owner is not None:
            owner._settle()


def _release(rlock: Any, outer: Any) -> None:
    """Clean up after a block under `rlock`, in a thread that was in the middle of an operation under `outer`.

    `with` alone is not enough: CPython 3.14 lets a signal handler raise after the lock was taken and before the block
    starts, and 3.9 and 3.10 after the block and before the lock is released.
    """
    release_all(rlock)
    _thread.rlock = outer


def _before_fork() -> None:
    """Take every lock, so that no manager is copied in the middle of an operation.

    Does not wait long for a lock while it holds others: the thread that has it may wait for one of them, by way of a
    lock of the user's. It has to wait a little, and longer each time: busy managers are seldom free at the same moment.
    """
    patience = _PATIENCE
    while True:
        locks = _living()
        busy = next((lock for lock in locks if not _take(lock._rlock, patience)), None)
        if busy is None and {id(lock) for lock in _living()} <= {id(lock) for lock in locks}:
            return  # otherwise another lock was made in the meantime
        _after_fork_in_parent()
        if busy is not None:
            patience *= 2
            with busy._rlock:
                pass


def _living() -> list[Lock]:
    return [lock for lock in (ref() for ref in _locks.copy().values()) if lock is not None]


def _take(rlock: Any, patience: float) -> bool:
    """Take a lock, and note that; whether it was free in time. One call of C code does both, as a signal handler may
    raise before it and after it."""
    taken = _thread.taken
    before = len(taken)
    taken.extend(filter(methodcaller("acquire", True, patience), (rlock,)))
    return len(taken) > before


def _after_fork_in_parent() -> None:
    taken = _thread.taken
    list(map(_release_one, map(taken.pop, [-1] * len(taken))))  # one call of C code, likewise


def _after_fork_in_child() -> None:
    _thread.taken.clear()
    _thread.rlock = None
    for lock in _living():
        lock._rlock = threading.RLock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none
    for _ in range(2):  # where a signal handler raises, that ends one of these functions, and no more
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
    os.register_at_fork(after_in_child=_after_fork_in_child)
