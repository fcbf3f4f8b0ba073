"""What another thread does in the very moment between two steps of ours, made to happen there each time."""

from __future__ import annotations

from typing import Any

import pytest

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
