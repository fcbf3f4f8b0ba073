"""Forking: every manager's lock is taken before and renewed in the child, so that no ledger is copied half done.

Knows of managers only that they have a `_lock`.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from ._lock import under

if TYPE_CHECKING:
    from ._manager import StaticWindowMapManager

__all__ = ["register"]

_registry: weakref.WeakSet[StaticWindowMapManager] = weakref.WeakSet()
_registry_lock = threading.RLock()
_taken: list[Any] = []


def register(manager: StaticWindowMapManager) -> None:
    """Take care of a manager, for as long as it lives."""
    under(_registry_lock, _registry.add, manager)


def _before_fork() -> None:
    """Take every lock. None is waited for while others are held: a finalizer that interrupts a call under one manager's
    lock may use or make another manager, so no order of locks would do."""
    while True:
        managers: list[StaticWindowMapManager] = under(_registry_lock, list, _registry)
        for lock in [*[manager._lock for manager in managers], _registry_lock]:
            if not lock.acquire(blocking=False):
                break
            _taken.append(lock)
        else:
            if set(_registry) <= set(managers):
                return
        _after_fork_in_parent()
        under(lock, _wait)


def _wait() -> None:
    """For `under`: it is enough that the lock was free."""


def _after_fork_in_parent() -> None:
    """Let go of every lock; also where one is not free, which is then waited for."""
    while _taken:
        _taken.pop().release()


def _after_fork_in_child() -> None:
    global _registry_lock
    _taken.clear()
    _registry_lock = threading.RLock()
    for manager in _registry:
        manager._lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has none
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
