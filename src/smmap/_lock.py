"""The lock of a manager, and how it copes with signal handlers, finalizers and forks. Knows nothing of what it
protects."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from functools import partial
from typing import Any, Callable, TypeVar

from ._errors import ReentryError
from ._system import release_all

__all__ = ["Lock"]

T = TypeVar("T")

_locks: dict[int, weakref.ref[Lock]] = {}
_taken_for_fork: list[Any] = []
_PATIENCE = 0.1  # seconds


class _Thread(threading.local):
    """The lock that a thread holds at this moment: a finalizer or signal handler may interrupt it there."""

    rlock: Any = None


_thread = _Thread()


class Lock:
    """Runs operations one at a time, and never waits where waiting might not end.

    A finalizer or signal handler may run in the middle of an operation, in the same thread. There, an operation under
    the same lock is refused, and an operation under another lock is refused if that lock is not free: two threads that
    wait for each other's locks in this way would wait forever. An operation that must neither wait nor be refused is
    noted (`soon`), and carried out by the next holder of the lock before anything else. `settle` is called after that.
    """

    __slots__ = ("__weakref__", "_notes", "_rlock", "_settle")

    def __init__(self, settle: Callable[[], object] | None = None) -> None:
        self._rlock: Any = threading.RLock()
        self._notes: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._settle = settle
        _locks[id(self)] = weakref.ref(self, partial(_locks.pop, id(self)))

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
        if self._settle is not None:
            self._settle()


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
    lock of the user's. It has to wait a little: without the interpreter's lock, busy managers are never free at the
    same moment.
    """
    while True:
        locks = _living()
        lock: Lock | None
        for lock in locks:
            if not lock._rlock.acquire(timeout=_PATIENCE):
                break
            _taken_for_fork.append(lock._rlock)
        else:
            if {id(lock) for lock in _living()} <= {id(lock) for lock in locks}:
                return
            lock = None  # another lock was made in the meantime: try again, with it
        _after_fork_in_parent()
        if lock is not None:
            with lock._rlock:
                pass


def _living() -> list[Lock]:
    return [lock for lock in (ref() for ref in _locks.copy().values()) if lock is not None]


def _after_fork_in_parent() -> None:
    while _taken_for_fork:
        _taken_for_fork.pop().release()


def _after_fork_in_child() -> None:
    _taken_for_fork.clear()
    _thread.rlock = None
    for lock in _living():
        lock._rlock = threading.RLock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
