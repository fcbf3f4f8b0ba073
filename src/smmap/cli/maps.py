"""The maps and limits of a process, from the system: from /proc, elsewhere from psutil.

Knows nothing of smmap: works for any process.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PROC", "FileMaps", "Process", "Unsupported", "by_folder", "look"]

PROC = "/proc"
_DELETED = " (deleted)"
_SIZES = {b"Rss": "resident", b"Pss": "proportional"}


class Unsupported(Exception):
    """This system does not provide the figures."""


@dataclass
class FileMaps:
    """The maps of one file, or all maps without a file. Sizes in bytes; None if the system has no figure."""

    path: str | None
    deleted: bool = False
    maps: int | None = 0
    virtual: int | None = 0
    resident: int | None = 0
    proportional: int | None = 0


@dataclass
class Process:
    """A process at one moment."""

    pid: int
    name: str
    maps: int | None
    max_maps: int | None
    descriptors: int | None
    max_descriptors: int | None
    virtual: int | None
    max_virtual: int | None
    resident: int | None
    proportional: int | None
    files: list[FileMaps] = field(default_factory=list)
    other: FileMaps | None = None
    """The maps without a file: heap, stacks, anonymous memory."""


def look(pid: int) -> Process:
    """A process now. `ProcessLookupError`, `PermissionError`, or `Unsupported`; linear in its maps."""
    if not os.path.isdir(f"{PROC}/self"):
        return _psutil(pid)
    try:
        os.stat(f"{PROC}/{pid}/maps")
        files, other = _maps(pid)
        try:
            descriptors: int | None = len(os.listdir(f"{PROC}/{pid}/fd"))
        except PermissionError:
            descriptors = None
        limits = _limits(pid)
        name = _name(pid)
        if _ended(pid):
            raise ProcessLookupError(f"process {pid} has ended, and its parent has not taken notice yet")
    except FileNotFoundError:
        raise ProcessLookupError(f"there is no process {pid}") from None
    except PermissionError:
        raise PermissionError(
            f"process {pid} belongs to another user, or to the system: only its owner and root may see its maps"
        ) from None
    if pid == os.getpid() and descriptors is not None:
        descriptors -= 1  # the one that lists them
    every = [*files, other]
    return Process(
        pid=pid,
        name=name,
        maps=sum(one.maps or 0 for one in every),
        max_maps=_max_maps(),
        descriptors=descriptors,
        max_descriptors=limits.get(b"Max open files"),
        virtual=sum(one.virtual or 0 for one in every),
        max_virtual=limits.get(b"Max address space"),
        resident=_sum(one.resident for one in every),
        proportional=_sum(one.proportional for one in every),
        files=files,
        other=other,
    )


def by_folder(files: list[FileMaps]) -> list[FileMaps]:
    """Sums the files by folder; a folder is "deleted" if all of its files are."""
    found: dict[str, FileMaps] = {}
    for one in files:
        folder = os.path.join(os.path.dirname(one.path or ""), "")
        total = found.get(folder)
        if total is None:
            found[folder] = FileMaps(folder, one.deleted, one.maps, one.virtual, one.resident, one.proportional)
            continue
        total.deleted = total.deleted and one.deleted
        for name in ("maps", "virtual", "resident", "proportional"):
            setattr(total, name, _sum((getattr(total, name), getattr(one, name))))
    return list(found.values())


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _maps(pid: int) -> tuple[list[FileMaps], FileMaps]:
    """The maps by file, and all others together."""
    other = FileMaps(None)
    by_file: dict[tuple[bytes, bytes, bytes], FileMaps] = {}
    one = other
    try:
        file = open(f"{PROC}/{pid}/smaps", "rb")  # noqa: SIM115
    except FileNotFoundError:  # a kernel that does not count pages
        file = open(f"{PROC}/{pid}/maps", "rb")  # noqa: SIM115
    with file:
        try:
            for line in file:
                name, _, value = line.partition(b":")
                if name in _SIZES:
                    setattr(one, _SIZES[name], getattr(one, _SIZES[name]) + int(value.split()[0]) * 1024)
                elif line[:1] in b"0123456789abcdef":
                    # address permissions offset device inode path
                    fields = line.rstrip(b"\n").split(None, 5)
                    one = other
                    if len(fields) == 6 and fields[4] != b"0":
                        key = fields[3], fields[4], fields[5]
                        one = by_file.get(key) or by_file.setdefault(key, _file(pid, int(fields[4]), fields[5]))
                    start, stop = fields[0].split(b"-")
                    one.maps = (one.maps or 0) + 1
                    one.virtual = (one.virtual or 0) + int(stop, 16) - int(start, 16)
        except ProcessLookupError:
            raise FileNotFoundError from None  # it has just ended
        counted = file.name.endswith("smaps")
    for one in (*by_file.values(), other):
        if not counted:
            one.resident = one.proportional = None
    return list(by_file.values()), other


def _file(pid: int, inode: int, field: bytes) -> FileMaps:
    """A file by its path in /proc: a newline is written as an octal number, deletion as a suffix."""
    path = os.fsdecode(field.replace(b"\\012", b"\n"))
    if not path.endswith(_DELETED):
        return FileMaps(path)
    if path.startswith(("/memfd:", "/dev/zero", "/SYSV", "/anon_hugepage")):
        return FileMaps(path[: -len(_DELETED)])  # never had another name
    try:  # the suffix may be part of the name
        if os.stat(f"{PROC}/{pid}/root{path}").st_ino == inode:
            return FileMaps(path)
    except OSError:
        pass
    return FileMaps(path[: -len(_DELETED)], deleted=True)


def _limits(pid: int) -> dict[bytes, int | None]:
    """The soft limits; None: unlimited."""
    found: dict[bytes, int | None] = {}
    with open(f"{PROC}/{pid}/limits", "rb") as file:
        for line in file:
            name, soft = line[:26].strip(), line[26:].split()[0]
            found[name] = int(soft) if soft.isdigit() else None
    return found


def _max_maps() -> int | None:
    try:
        with open(f"{PROC}/sys/vm/max_map_count", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def _name(pid: int) -> str:
    """The command line of a process, or its name if it has none."""
    with open(f"{PROC}/{pid}/cmdline", "rb") as file:
        words = os.fsdecode(file.read().rstrip(b"\0").replace(b"\0", b" "))
    if not words:
        with open(f"{PROC}/{pid}/comm", "rb") as file:
            words = f"[{os.fsdecode(file.read().strip())}]"
    return words


def _ended(pid: int) -> bool:
    with open(f"{PROC}/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")


def _psutil(pid: int) -> Process:
    """The figures from psutil, where there is no /proc."""
    try:
        import psutil
    except ImportError:
        raise Unsupported(
            f"{sys.platform} has no /proc: install psutil (it comes with the extra `cli`) to see its figures"
        ) from None
    try:
        process = psutil.Process(pid)
        memory = process.memory_info()
        descriptors = process.num_handles() if hasattr(process, "num_handles") else process.num_fds()
        found = process.memory_maps(grouped=True) if hasattr(process, "memory_maps") else []
        name = " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"there is no process {pid}") from None
    except psutil.AccessDenied:
        raise PermissionError(f"process {pid} belongs to another user, or to the system, and may not be read") from None
    return Process(
        pid=pid,
        name=name,
        maps=None,
        max_maps=None,
        descriptors=descriptors,
        max_descriptors=None,
        virtual=memory.vms,
        max_virtual=None,
        resident=memory.rss,
        proportional=None,
        files=[
            FileMaps(one.path, maps=None, virtual=None, resident=one.rss, proportional=getattr(one, "pss", None))
            for one in found
            if not one.path.startswith("[")
        ],
    )
