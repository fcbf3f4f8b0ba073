"""The ledger: what is mapped, in which order it goes, and what the limits leave room for. Knows no lock and no clients.

Every region is in exactly one of three tables: `held` by cursors, `idle` (least recently used first), or `lent`
(evicted, but kept alive by a user's view). What is mapped is their sum; with the `kept` descriptors it stays within the
limit of handles. All methods are called under the manager's lock; all but `unload` and `check` are O(1), or O(1) for
each region evicted.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from . import _system
from ._window import ALLOCATIONGRANULARITY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._file import FileRef, MappedFile
    from ._region import MapRegion, Store
    from ._system import Descriptor

__all__ = ["Ledger", "Stats"]


class Stats(NamedTuple):
    """What a manager has mapped, has done, and may do. Sizes are in bytes."""

    mapped: int
    """Regions mapped now: held + idle + lent."""
    held: int
    """Regions that cursors hold: they cannot be evicted."""
    idle: int
    """Regions that may be evicted."""
    lent: int
    """Regions evicted already, but kept alive by views of the user's."""
    mapped_memory: int
    """Bytes mapped now, lent ones included."""
    files: int
    """Files of which regions are mapped."""
    descriptors: int
    """Descriptors kept open."""
    hits: int
    """Windows found mapped, by a cursor's move or a buffer's change of window. Reading on in the window that was used
    last is not counted."""
    misses: int
    """Windows that had to be mapped."""
    evictions: int
    """Regions evicted."""
    cold_reads: int
    """Reads from windows that are not mapped. Threads that read at the same moment may lose a count to each other."""
    peak_mapped: int
    """The most regions mapped at the end of any call."""
    peak_memory: int
    """The most bytes mapped at the end of any call."""
    window_size: int
    """Size of a window; 0 stands for whole files."""
    max_memory_size: int
    """Above this, idle regions are evicted."""
    max_open_handles: int
    """There are never more maps and kept descriptors than this."""


class Ledger:
    """The tables, counters and limits of one manager; `report` is called with the token of a lent store that died."""

    def __init__(self, max_memory: int, max_handles: int, report: Callable[[Any], Any]) -> None:
        self.held: dict[MapRegion, MappedFile] = {}
        self.idle: OrderedDict[MapRegion, MappedFile] = OrderedDict()
        self.lent: dict[Any, tuple[MapRegion, MappedFile]] = {}
        self.kept: OrderedDict[Descriptor, FileRef] = OrderedDict()
        self.max_memory = max_memory
        self.mapped = self.memory = self.files = 0
        self.hits = self.misses = self.evictions = self.cold_reads = 0
        self._peak_mapped = self._peak_memory = 0
        self._unsure: dict[Any, int] = {}
        """The sizes of lent regions that may only seem to be lent, as all do on PyPy until it collects: by token."""
        self._unsure_memory = 0
        self._max_handles = max_handles
        self._limits: tuple[int, int] | None = None
        self._report = report

    def limits(self) -> tuple[int, int]:
        """The most handles, and how many of them may be kept descriptors; read from the system when first needed."""
        if self._limits is None:
            maps, descriptors = _system.handle_limits()
            self._limits = (maps if self._max_handles == sys.maxsize else self._max_handles), descriptors
        return self._limits

    def admit(self, region: MapRegion, file: MappedFile) -> None:
        """Enter a region that was just mapped, as idle and used last; a shorter one of the same window gives way."""
        replaced = file.regions.get(region.key)
        file.regions[region.key] = region
        if replaced is not None and replaced in self.idle:
            self.evict(replaced)
        self.idle[region] = file
        self.misses += 1
        self._count(region, file)

    def use(self, region: MapRegion) -> None:
        """A mapped region is used: it goes last."""
        self.hits += 1
        if region in self.idle:
            self.idle.move_to_end(region)

    def take(self, region: MapRegion) -> None:
        """Hold a mapped region, once more."""
        region.holds += 1
        if region in self.idle:
            self.held[region] = self.idle.pop(region)

    def let_go(self, region: MapRegion) -> None:
        """Hold a region once less: after its last hold it is idle and used last, or evicted if none can find it."""
        region.holds -= region.holds > 0  # holds taken away by hand are gone already
        if region.holds == 0 and region in self.held:
            file = self.held[region]
            if file.regions.get(region.key) is region:
                self.idle[region] = self.held.pop(region)
            else:
                self.evict(region)

    def dismiss(self, region: MapRegion) -> None:
        """Evict a region that was let go, if its file is gone: whoever asks for the file's path gets another one."""
        file = self.idle.get(region)
        if file is not None and file.gone:
            self.evict(region)

    def evict(self, region: MapRegion) -> bool:
        """Take an idle or held region out and let its store go; True if it is unmapped, else it is lent."""
        table = self.idle if region in self.idle else self.held
        file = table.pop(region)
        self.evictions += 1
        if region.drop(self._report):
            self._unmapped(region, file)
            return True
        self.lent[region.token] = region, file
        if _system.PYPY:
            self._unsure[region.token] = region.size()
            self._unsure_memory += region.size()
        return False

    def confirm(self) -> None:
        """Garbage was collected: what is lent now really is."""
        self._unsure.clear()
        self._unsure_memory = 0

    def revive(self, region: MapRegion, store: Store | None = None) -> bool:
        """Take a lent region back, if its store still lives."""
        if region.token not in self.lent or not region.is_owned() or not region.revive(store):
            return False
        _, file = self.lent.pop(region.token)
        self._unsure_memory -= self._unsure.pop(region.token, 0)
        region.token = None
        region.lend_locked()
        (self.held if region.holds else self.idle)[region] = file
        return True

    def died(self, token: Any) -> None:
        """The store of a lent region died."""
        if token in self.lent:
            self._unsure_memory -= self._unsure.pop(token, 0)
            self._unmapped(*self.lent.pop(token))

    def _count(self, region: MapRegion, file: MappedFile) -> None:
        self.mapped += 1
        self.memory += region.end - region.begin
        file.pins += region.pins
        file.maps += 1
        self.files += file.maps == 1

    def _unmapped(self, region: MapRegion, file: MappedFile) -> None:
        self.mapped -= 1
        self.memory -= region.end - region.begin
        file.pins -= region.pins
        file.maps -= 1
        self.files -= file.maps == 0
        if file.regions.get(region.key) is region:
            del file.regions[region.key]

    def trim(self, last: MapRegion | None, more: int = 0) -> int:
        """Evict idle regions, least recently used first, until `more` bytes fit; `last` was used last and stays.

        A held region larger than the limit of memory makes no room for itself, since it cannot fit anyway. On PyPy what
        was let go counts as gone until garbage was collected. How many went.
        """
        handles = (self._limits or self.limits())[0]
        memory = self.max_memory - more
        if self.mapped + len(self.kept) <= handles and self.memory <= memory:
            return 0
        evictions = self.evictions
        if memory < 0 or (last is not None and last in self.held and last.size() > memory):
            memory = sys.maxsize
        while True:
            maps = self.mapped - len(self._unsure)
            if self.kept and maps + len(self.kept) > handles:
                self.drop_descriptor()
                continue
            if maps <= handles and self.memory - self._unsure_memory <= memory:
                break
            region = next(iter(self.idle), None)
            if region is None or region is last:
                break
            self.evict(region)
        return self.evictions - evictions

    def fits(self) -> bool:
        """Whether the hard limit is kept, now that a call ends."""
        if self.mapped > (self._limits or self.limits())[0]:
            return False
        if self.mapped > self._peak_mapped:
            self._peak_mapped = self.mapped
        if self.memory > self._peak_memory:
            self._peak_memory = self.memory
        return True

    def has_room(self, own: MapRegion | None) -> bool:
        """Whether evicting could make room for one more region; `own` is what its client would let go for it."""
        return (
            self.mapped < (self._limits or self.limits())[0]
            or bool(self.idle)
            or (own is not None and own.holds == 1 and own in self.held)
        )

    def keep(self, descriptor: Descriptor, file: MappedFile) -> bool:
        """Keep a file's descriptor open for later, as far as there are handles to spare."""
        handles, descriptors = self.limits()
        room = min(handles - self.mapped, descriptors) if _system.KEEPS_DESCRIPTORS else 0
        if room <= 0 or file.ref.descriptor is not None:
            return False
        while len(self.kept) >= room:
            self.drop_descriptor()
        descriptor.shared = True
        self.kept[descriptor] = file.ref
        file.ref.descriptor = descriptor
        file.pins += 1
        return True

    def drop_descriptor(self, descriptor: Descriptor | None = None) -> None:
        """Keep a descriptor (the least recently used one) no longer; it is closed once nobody reads from it."""
        if descriptor is None:
            descriptor = next(iter(self.kept))
        ref = self.kept[descriptor]
        ref.descriptor = None
        del self.kept[descriptor]
        file = ref()
        if file is not None:
            file.pins -= 1
        if not descriptor.readers:
            descriptor.retire()

    def check_in(self, descriptor: Descriptor) -> None:
        """Somebody reads from a descriptor no longer."""
        descriptor.readers -= 1
        if descriptor not in self.kept and not descriptor.readers:
            descriptor.retire()

    def unload(self, held: bool = False) -> int:
        """Evict all idle regions (and held ones) and close the kept descriptors; how many regions went."""
        while self.kept:
            self.drop_descriptor()
        regions = [*self.idle, *(self.held if held else ())]
        for region in regions:
            self.evict(region)
        return len(regions)

    def unload_file(self, file: MappedFile, held: bool = False) -> int:
        """The same for one file."""
        if file.ref.descriptor is not None:
            self.drop_descriptor(file.ref.descriptor)
        regions = [region for region in file.regions.values() if region in self.idle or (held and region in self.held)]
        for region in regions:
            self.evict(region)
            if held:
                region.disown()  # so that its cursors are told, and do not map it again by themselves
        return len(regions)

    def outdate(self, file: MappedFile) -> None:
        """The file was written to: its windows that were read into memory are for those who hold them, no one else."""
        for region in list(file.regions.values()):
            if not region.pins and region in self.idle:
                self.evict(region)
            elif not region.pins and region in self.held:
                del file.regions[region.key]

    def rebuild(self, files: Iterable[MappedFile], holders: Iterable[MapRegion]) -> None:
        """Set tables and counters right from what files and regions say, after an operation was cut short.

        `holders` has the region of each cursor that holds one. Holds by hand are forgotten. Linear in what is mapped.
        """
        known = {**self.idle, **self.held, **dict(self.lent.values())}  # in the order in which they go
        for file in files:
            known.update({region: file for region in list(file.regions.values()) if region not in known})
        self._rebuild_kept({*files, *known.values()})
        holds = Counter(holders)
        self.held, self.idle, self.lent = {}, OrderedDict(), {}
        self.mapped = self.memory = self.files = 0
        for region, file in known.items():
            region.holds = holds[region]
            self._enter_again(region, file)
        self._unsure = {token: size for token, size in self._unsure.items() if token in self.lent}
        self._unsure_memory = sum(self._unsure.values())

    def _enter_again(self, region: MapRegion, file: MappedFile) -> None:
        findable = file.regions.get(region.key) is region
        if region.store is not None and (region.holds or findable):
            region.token = None
            (self.held if region.holds else self.idle)[region] = file
        elif region.drop(self._report):
            if findable:
                del file.regions[region.key]
            return
        else:
            self.lent[region.token] = region, file
        self._count(region, file)

    def _rebuild_kept(self, files: set[MappedFile]) -> None:
        """Keep the descriptors that both sides know of."""
        for descriptor, ref in list(self.kept.items()):
            if ref() is None:
                ref.descriptor = None
            if ref.descriptor is not descriptor:
                del self.kept[descriptor]
        for file in files:
            if file.ref.descriptor not in self.kept:
                file.ref.descriptor = None
            file.pins = int(file.ref.descriptor is not None)
            file.maps = 0

    def stats(self, window_size: int) -> Stats:
        """All counters."""
        return Stats(
            mapped=self.mapped,
            held=len(self.held),
            idle=len(self.idle),
            lent=len(self.lent),
            mapped_memory=self.memory,
            files=self.files,
            descriptors=len(self.kept),
            hits=self.hits,
            misses=self.misses,
            evictions=self.evictions,
            cold_reads=self.cold_reads,
            peak_mapped=self._peak_mapped,
            peak_memory=self._peak_memory,
            window_size=window_size,
            max_memory_size=self.max_memory,
            max_open_handles=self.limits()[0],
        )

    def check(self) -> None:
        """Assert every invariant."""
        tables = [*self.held.items(), *self.idle.items(), *self.lent.values()]
        regions = [region for region, _ in tables]
        assert len(set(regions)) == len(regions), "a region stands in two tables"
        assert self.memory == sum(region.size() for region in regions), "memory is miscounted"
        assert self.files == len({file for _, file in tables}), "files are miscounted"
        assert self.mapped == len(regions), "regions are miscounted"
        assert self.mapped <= self.limits()[0], "more regions than handles"
        for file in {file for _, file in tables}:
            own = [region for region, of in tables if of is file]
            assert file.maps == len(own), "a file's regions are miscounted"
            kept = file.ref.descriptor is not None
            assert file.pins == sum(region.pins for region in own) + kept, "a file's pins are miscounted"
            for key, region in file.regions.items():
                assert region.key == key, "a region stands under another key"
                assert region in own, "a file's table has a stranger"
        for region in regions:
            assert 0 <= region.begin < region.end, "an empty region"
            assert region.begin % ALLOCATIONGRANULARITY == 0, "a region begins unaligned"
        for region in self.held:
            assert region.holds > 0, "held by nobody"
            assert region.store is not None, "held but evicted"
        for region, file in self.idle.items():
            assert region.holds == 0, "idle but held"
            assert region.store is not None, "idle but evicted"
            assert file.regions.get(region.key) is region, "an idle region that cannot be found"
        for region, _ in self.lent.values():
            assert region.store is region.hot is None, "lent but not evicted"
        for descriptor, ref in self.kept.items():
            assert descriptor.number >= 0, "a kept descriptor is closed"
            assert ref.descriptor is descriptor, "a kept descriptor is a stranger to its file"
