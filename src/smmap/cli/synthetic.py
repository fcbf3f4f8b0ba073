"""Generated reads: files and places by Zipf's law, in bounded memory however many there are."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from time import perf_counter, process_time_ns
from typing import Any, NamedTuple

import numpy as np

from .. import SlidingWindowMapManager
from .._sizes import parse_size
from .distances import distances_of
from .policies import Outcome, Smmap

__all__ = ["Simulated", "Spec", "files_for_real", "parse", "real_steps", "simulate", "steps"]

_CHUNK = 1 << 18
_SAMPLE = 500_000  # accesses for the curve
_STAGES = 10
_MOST_FILES = 20_000  # real files
_FOR_REAL = 20_000  # real accesses between two looks


class Spec(NamedTuple):
    """The reads to generate: `accesses` of `read` bytes, in `files` files of `size` bytes."""

    files: int = 1_000_000
    accesses: int = 50_000_000
    size: int = 1 << 20
    read: int = 4096
    seed: int = 0


class Stage(NamedTuple):
    """A part of a run: files read so far, CPU nanoseconds per access, and this process's resident bytes then."""

    files: int
    ns_per_access: float
    resident: int


class Simulated(NamedTuple):
    """The results of a run."""

    outcome: Outcome
    stages: list[Stage]
    memories: list[int]
    misses: list[float]
    seconds: float


def parse(text: str) -> Spec:
    """A specification like `zipf:files=1000000,accesses=50000000,size=1M,read=4096,seed=0`; `ValueError`."""
    kind, _, rest = text.partition(":")
    if kind != "zipf":
        raise ValueError(f"{text!r} does not start with 'zipf'")
    given: dict[str, int] = {}
    for part in filter(None, rest.split(",")):
        name, _, value = part.partition("=")
        if name not in Spec._fields:
            raise ValueError(f"{name!r} is not one of {', '.join(Spec._fields)}")
        given[name] = parse_size(value)
        if given[name] < (name != "seed"):
            raise ValueError(f"{name} must be at least 1")
    spec = Spec(**given)
    if spec.read > spec.size:
        raise ValueError(f"reads of {spec.read} bytes do not fit into files of {spec.size}")
    return spec


def chunks(spec: Spec, most: int = _CHUNK) -> Iterator[tuple[Any, Any]]:
    """Files (by rank) and offsets, in chunks, so that memory does not depend on the number of accesses."""
    random = np.random.default_rng(spec.seed)
    places = max(spec.size // spec.read, 1)
    for start in range(0, spec.accesses, most):
        count = min(most, spec.accesses - start)
        file = ((spec.files + 1) ** random.random(count)).astype(np.int64) - 1
        place = ((places + 1) ** random.random(count)).astype(np.int64) - 1
        yield np.minimum(file, spec.files - 1), (place * 7919 + file) % places * spec.read


def simulate(
    spec: Spec, window: int, memory: int, handles: int, step: Callable[[str], None] = lambda name: None
) -> Simulated:
    """The manager's policy on all accesses, and the curve of a sample of windows. `step` is called for each chunk."""
    started = perf_counter()
    policy = Smmap(memory, handles)
    width = min(window or spec.size, spec.size)
    each = -(-spec.size // width)
    share = min(_SAMPLE / spec.accesses, 1.0)
    limit = np.uint64(share * (1 << 24))
    sample: list[Any] = []
    stages: list[Stage] = []
    met = np.zeros(spec.files, bool)
    done = spent = since = 0
    for file, offset in chunks(spec):
        number = file * each + offset // width
        hashed = (number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
        sample.append(number[hashed < limit])
        met[file] = True
        windows = number.tolist()
        count = len(windows)
        start = process_time_ns()
        policy.use(windows, [spec.read] * count, [True] * count, lambda _: width, [width] * count)
        spent += process_time_ns() - start
        done, since = done + count, since + count
        if done >= spec.accesses * (len(stages) + 1) // _STAGES:
            stages.append(Stage(int(met.sum()), spent / since, _resident()))
            spent = since = 0
        step("simulating")
    numbers, ids = np.unique(np.concatenate(sample), return_inverse=True)
    sizes = np.full(len(numbers), width, np.int64)
    distances = distances_of(ids.reshape(-1), sizes, share, expected=spec.accesses * share)
    least = 8 / share  # windows: the sample says nothing about fewer, since it has hardly any of them
    memories = [
        width << shift for shift in range(40) if least <= 1 << shift and width << shift <= 2 * spec.files * spec.size
    ]
    return Simulated(policy.outcome, stages, memories, distances.curve(memories), perf_counter() - started)


def steps(spec: Spec) -> int:
    """How often `simulate` calls `step`."""
    return -(-spec.accesses // _CHUNK)


def _resident() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def real_steps(spec: Spec) -> int:
    """How often `files_for_real` calls `step`."""
    return 1 + -(-min(spec.accesses, 10 * min(spec.files, _MOST_FILES)) // _FOR_REAL)


def files_for_real(
    spec: Spec, window: int, memory: int, handles: int, step: Callable[[str], None] = lambda name: None
) -> list[Stage]:
    """The first accesses by a real manager, on at most 20,000 empty files made for it; a buffer for each access."""
    count = min(spec.files, _MOST_FILES)
    spec = spec._replace(files=count, accesses=min(spec.accesses, 10 * count))
    stages: list[Stage] = []
    with tempfile.TemporaryDirectory(prefix="smmap-synthetic-") as folder:
        for number in range(count):
            with open(os.path.join(folder, str(number)), "wb") as file:
                file.truncate(spec.size)
        step("making files")
        with SlidingWindowMapManager(window, memory, handles) as manager:
            done = spent = since = 0
            met: set[int] = set()
            for part, offsets in chunks(spec, _FOR_REAL):
                start = process_time_ns()
                for file_number, offset in zip(part.tolist(), offsets.tolist()):
                    with manager.buffer(f"{folder}/{file_number}") as data:
                        data[offset : offset + spec.read]
                spent += process_time_ns() - start
                met.update(part.tolist())
                done, since = done + len(part), since + len(part)
                stages.append(Stage(len(met), spent / since, _resident()))
                spent = since = 0
                step("reading for real")
    return stages
