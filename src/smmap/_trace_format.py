"""The file format of traces. Knows only bytes; _trace.py writes them, and `smmap replay` reads them.

All numbers are little-endian. A file is a header and chunks:

    header   8 bytes   93 "SMTRC" 0D 0A: a transfer as text would change it
             u16       version, 2
             u16       shift of a place: sampling keeps or leaves out places of 2**shift bytes
             u32       process id
             f64       time of the start, in seconds since 1970
    chunk    4 bytes   tag
             u32       length of the compressed body
             u32       CRC-32 of tag and body
             body      compressed with zlib

The bodies, uncompressed:

    MNGR     u32 number, u64 window size, u64 memory limit, u64 handle limit: a manager
    FILE     u32 number, u32 manager, u64 size, u32 mark, then the path in UTF-8 with surrogate escapes: a file
    READ     16 bytes each: u32 file, u32 size, u56 offset, u8 kind and outcome: reads, in order
    RATE     u32 threshold: from here on only places with a hash (see _places.py) below it are recorded, of 2**24
    TAIL     u64 total number of reads, u64 number of recorded reads: the end

Version 1 had no marks: a file's number was used in hashes.

The low four bits of the last byte of a read are its kind (0 a copy, 1 a view, 2 a move of a cursor), the high four
its outcome (0 a hit, 1 a miss, 2 a cold read). A read of 2 GiB or more is stored as several.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import NamedTuple

from ._errors import SmmapError
from ._places import FULL, PLACE_SHIFT

__all__ = [
    "COLD",
    "HIT",
    "MISS",
    "READ",
    "Recorded",
    "TraceError",
    "TracedFile",
    "TracedManager",
    "chunk",
    "file_body",
    "header",
    "load",
    "manager_body",
]

MAGIC = b"\x93SMTRC\r\n"
VERSION = 2
HIT, MISS, COLD = range(3)
"""Outcomes of reads."""

READ = struct.Struct("<IIQ")
_HEADER = struct.Struct("<8sHHId")
_CHUNK = struct.Struct("<4sII")
_MANAGER = struct.Struct("<IQQQ")
_FILE = {1: struct.Struct("<IIQ"), 2: struct.Struct("<IIQI")}
_RATE = struct.Struct("<I")
_TAIL = struct.Struct("<QQ")
_LARGEST = 1 << 31  # bytes of a chunk: a larger one is not from a trace
_WORD = (1 << 64) - 1  # the largest limit


class TraceError(SmmapError, ValueError):
    """A file is not a trace, is incomplete, or has an unknown version."""


class TracedManager(NamedTuple):
    """The settings of a manager whose reads were recorded; sizes in bytes, a window of 0 means whole files."""

    window: int
    memory: int
    handles: int


class TracedFile(NamedTuple):
    """A file that was read: its path, its size in bytes, the number of its manager, and its mark in hashes."""

    path: str
    size: int
    manager: int
    mark: int


@dataclass
class Recorded:
    """The content of a trace file."""

    pid: int
    started: float
    place_shift: int
    version: int
    threshold: int = FULL
    managers: dict[int, TracedManager] = field(default_factory=dict)
    files: dict[int, TracedFile] = field(default_factory=dict)
    reads: bytes = b""
    """The bodies of all READ chunks: see `READ`."""
    seen: int | None = None
    """How many reads there were, including those that sampling left out; None if the end of the file is missing."""


def header(pid: int, started: float) -> bytes:
    """The header of a new file."""
    return _HEADER.pack(MAGIC, VERSION, PLACE_SHIFT, pid, started)


def chunk(tag: bytes, body: bytes) -> bytes:
    """A chunk."""
    packed = zlib.compress(body, 1)
    return _CHUNK.pack(tag, len(packed), zlib.crc32(packed, zlib.crc32(tag))) + packed


def manager_body(number: int, window: int, memory: int, handles: int) -> bytes:
    """The body of a MNGR chunk."""
    return _MANAGER.pack(number, window, min(memory, _WORD), min(handles, _WORD))


def file_body(number: int, manager: int, size: int, mark: int, path: str) -> bytes:
    """The body of a FILE chunk."""
    return _FILE[VERSION].pack(number, manager, size, mark) + path.encode("utf-8", "surrogateescape")


def rate_chunk(threshold: int) -> bytes:
    """A RATE chunk."""
    return chunk(b"RATE", _RATE.pack(threshold))


def tail_chunk(seen: int, recorded: int) -> bytes:
    """A TAIL chunk."""
    return chunk(b"TAIL", _TAIL.pack(seen, recorded))


def load(path: str, partial: bool = False) -> Recorded:
    """The content of a trace file. `TraceError` if it is not a trace, or incomplete; with `partial`, the complete part.

    Linear in the file; holds its reads in memory, 16 bytes each.
    """
    with open(path, "rb") as file:
        data = file.read()
    if data[: len(MAGIC)] != MAGIC:
        text = " (it went through a transfer as text)" if data[:6] == MAGIC[:6] else ""
        raise TraceError(f"{path!r} is not a trace of smmap: it does not start with {MAGIC!r}{text}")
    if len(data) < _HEADER.size:
        raise TraceError(f"{path!r} is truncated: {len(data)} of {_HEADER.size} bytes of its header are there")
    _, version, shift, pid, started = _HEADER.unpack_from(data)
    if version not in _FILE:
        raise TraceError(f"{path!r} is a trace of version {version}; this smmap reads version {VERSION}")
    found = Recorded(pid, started, shift, version)
    reads: list[bytes] = []
    at = _HEADER.size
    try:
        while found.seen is None:
            at = _next(data, at, found, reads)
        if at != len(data):
            raise TraceError(f"{len(data) - at} bytes follow the end of the trace at offset {at}")
    except TraceError as error:
        if not partial:
            count = sum(map(len, reads)) // READ.size
            raise TraceError(f"{path!r}: {error}; {count:,} reads before it are whole: `--partial` uses them") from None
    found.reads = b"".join(reads)
    return found


def _next(data: bytes, at: int, found: Recorded, reads: list[bytes]) -> int:
    """Take in the chunk at an offset; return the offset of the next."""
    if len(data) - at < _CHUNK.size:
        raise TraceError(f"truncated at offset {at}, the process may have been killed")
    tag, size, checksum = _CHUNK.unpack_from(data, at)
    body = data[at + _CHUNK.size : at + _CHUNK.size + size]
    if size > _LARGEST or not tag.isalpha():
        raise TraceError(f"damaged at offset {at}: {tag!r} is not the tag of a chunk")
    if len(body) < size:
        raise TraceError(f"truncated: {len(body)} of {size} bytes of the chunk at offset {at} are there")
    if zlib.crc32(body, zlib.crc32(tag)) != checksum:
        raise TraceError(f"damaged: the checksum of the chunk at offset {at} is wrong")
    try:
        _take(tag, zlib.decompress(body), found, reads)
    except (zlib.error, struct.error) as error:
        raise TraceError(f"damaged: the chunk at offset {at} cannot be read: {error}") from None
    return int(at + _CHUNK.size + size)


def _take(tag: bytes, body: bytes, found: Recorded, reads: list[bytes]) -> None:
    if tag == b"READ" and len(body) % READ.size == 0:
        reads.append(body)
    elif tag == b"FILE":
        layout = _FILE[found.version]
        number, manager, size, *mark = layout.unpack_from(body)
        path = body[layout.size :].decode("utf-8", "surrogateescape")
        found.files[number] = TracedFile(path, size, manager, *(mark or (number,)))
    elif tag == b"MNGR":
        number, *settings = _MANAGER.unpack(body)
        found.managers[number] = TracedManager(*settings)
    elif tag == b"RATE":
        found.threshold = min(found.threshold, *_RATE.unpack(body))
    elif tag == b"TAIL":
        found.seen = _TAIL.unpack(body)[0]
    else:
        raise TraceError(f"a chunk {tag!r} of {len(body)} bytes is unknown to this version")
