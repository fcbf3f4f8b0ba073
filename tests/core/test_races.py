"""What another thread does in the very moment between two steps of ours, made to happen there each time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import smmap
from smmap._ledger import Ledger
from smmap.util import MapRegion

from ._tools import G, reclaim


def test_the_last_view_dies_while_its_region_is_evicted(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The region was still lent when it was let go, and no more when that is written down."""
    file = make_file(4 * G)
    manager = make_manager(2 * G)
    with manager.make_cursor(file.path) as cursor:
        views = [cursor.use_region(0, 10).buffer()]
    drop = MapRegion.drop

    def racing(region: MapRegion, died: Any) -> bool:
        gone = drop(region, died)
        views.clear()
        reclaim()
        return gone

    monkeypatch.setattr(MapRegion, "drop", racing)
    assert manager.collect() == 1
    monkeypatch.undo()
    manager._check()
    assert manager.stats()[:7] == (0, 0, 0, 0, 0, 0, 0)
    with manager.make_cursor(file.path) as cursor:
        assert cursor.use_region(5, 10).buffer() == file.data[5:15]


def test_a_region_is_evicted_while_a_cursor_takes_it(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever evicts had settled who holds what, and a cursor takes an idle region without the lock just then."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    with manager.make_cursor(file.path) as cursor, manager.make_cursor(file.path) as other:
        other.use_region(2 * G, 10).unuse_region()
        cursor.use_region(0, 10)
        unload = Ledger.unload

        def racing(ledger: Ledger, held: bool = False) -> int:
            assert cursor.use_region(2 * G + 7, 10).region().store is not None
            return unload(ledger, held)

        monkeypatch.setattr(Ledger, "unload", racing)
        assert manager.collect() == 1
        monkeypatch.undo()
        assert cursor.is_valid()
        assert (cursor.ofs_begin(), cursor.size()) == (2 * G + 7, 10)
        with copy.copy(cursor) as twin:
            assert twin.is_valid()
            assert twin.buffer() == file.data[2 * G + 7 : 2 * G + 17]
        region = cursor.region()
        assert region.ofs_begin() == 2 * G
        assert region.buffer()[7:17] == file.data[2 * G + 7 : 2 * G + 17]
        assert cursor.buffer() == file.data[2 * G + 7 : 2 * G + 17]
        manager._check()
        assert manager.stats().held == 1
    manager.collect()
    assert manager.stats()[:7] == (0, 0, 0, 0, 0, 0, 0)


def test_the_manager_is_closed_while_a_buffer_is_made(
    make_manager: Any, make_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was looked at, and is about to be opened: nothing is kept open by a closed manager."""
    file = make_file(6 * G)
    manager = make_manager(2 * G)
    associate = type(manager).associate

    def racing(self: Any, client: Any, path: Any) -> None:
        associate(self, client, path)
        self.close()

    monkeypatch.setattr(type(manager), "associate", racing)
    with pytest.raises(smmap.ClosedError, match=file.path.name):
        manager.buffer(file.path)
    manager._check()
    assert manager.stats().descriptors == 0
