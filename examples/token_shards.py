"""A training set of tokens in 5,000 files, read by worker processes that keep to 64 MiB and 256 handles each.

    python examples/token_shards.py
    python examples/token_shards.py --shards 500 --workers 2 --context 1024

Makes the files in a temporary folder, from a function that says which token is at which place, so that every token
of every batch can be checked. Then it reads the same batches in two ways, and counts the workers' maps and descriptors.
At first all sequences are equally likely; then nine of ten come from a fiftieth of the files, as when sources are
weighted. The two ways are:

- through `smmap.numpy.Shards`, one long array over all files;
- with a new `np.memmap` for each sequence, since one kept map per file fails at the limit of descriptors. The example
  shows that first, under a limit of 1,024.

Last, it reads batches as a trainer without worker processes does: `Shards.blocks` fills one array (in pinned memory,
and converted on the GPU, if torch finds one), while storage reads the next batch, which `prefetch` has announced.

Needs numpy: `pip install '.[numpy]'`. `torch.utils.data.DataLoader` accepts a `TokenDataset`.
"""

from __future__ import annotations

import argparse
import bisect
import multiprocessing
import pickle
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import smmap
from smmap.numpy import Shards

TOKEN = np.dtype("<u2")
Tokens = np.ndarray[Any, Any]


def tokens_at(places: Tokens) -> Tokens:
    """The tokens at these places of the whole set: no two stretches are alike."""
    mixed = places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(48)).astype(TOKEN)


def make_shards(folder: Path, count: int, tokens: int) -> list[Path]:
    """Files of about `tokens` tokens each; no two borders are at the same place of a sequence."""
    paths = []
    start = 0
    for number in range(count):
        stop = start + tokens + number * 7919 % 101
        paths.append(folder / f"{number:05}.bin")
        paths[-1].write_bytes(tokens_at(np.arange(start, stop)).tobytes())
        start = stop
    return paths


class TokenDataset:
    """Sequences of `context` tokens, and the same sequences one token later: a data set as PyTorch expects it."""

    def __init__(self, tokens: Any, context: int) -> None:
        self.tokens = tokens
        self.context = context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, number: int) -> tuple[Tokens, Tokens]:
        start = number * self.context
        found = self.tokens[start : start + self.context + 1]
        return found[:-1], found[1:]


class MemmapsAnew:
    """The same long array, with a new `np.memmap` for each read, as programs do when they cannot keep maps."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.starts = [0, *accumulate(path.stat().st_size // TOKEN.itemsize for path in paths)]

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, key: slice) -> Tokens:
        start, stop, _ = key.indices(len(self))
        pieces = []
        shard = bisect.bisect_right(self.starts, start) - 1
        while start < stop:
            end = min(stop, self.starts[shard + 1])
            first = self.starts[shard]
            pieces.append(np.array(np.memmap(self.paths[shard], TOKEN, "r")[start - first : end - first]))
            start, shard = end, shard + 1
        return np.concatenate(pieces)


# In the workers


class Done(NamedTuple):
    """The results of one batch."""

    wrong: int
    seconds: float
    handles: int
    memory: int


dataset: TokenDataset


def set_up(data: bytes, memory: int, handles: int) -> None:
    """A worker gets the data set once, and limits for its own default manager."""
    global dataset
    smmap.configure(max_memory_size=memory, max_open_handles=handles)
    dataset = pickle.loads(data)


def read_batch(numbers: Sequence[int]) -> Done:
    """Read a batch, and check every token of it."""
    started = time.process_time()  # CPU time: the files are in the page cache, and workers may outnumber CPUs
    batch = [dataset[number] for number in numbers]
    seconds = time.process_time() - started
    wrong = 0
    for number, (tokens, following) in zip(numbers, batch):
        places = np.arange(number * dataset.context, (number + 1) * dataset.context + 1)
        wrong += int((tokens != tokens_at(places[:-1])).sum() + (following != tokens_at(places[1:])).sum())
    stats = smmap.default_manager().stats()
    handles = max(stats.peak_mapped, stats.mapped + stats.descriptors)
    return Done(wrong, seconds, handles, stats.peak_memory)


def keep_memmaps(paths: Sequence[Path], descriptors: int) -> str:
    """Try to keep a map of every file, and say how far that went."""
    try:
        import resource
    except ImportError:
        return "not tried: this system has no limit of descriptors to set"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    kept: list[Tokens] = []
    try:
        kept.extend(np.memmap(path, TOKEN, "r") for path in paths)
    except OSError as error:
        return f"fails after {len(kept):,} of {len(paths):,} files: {error.strerror}"
    return f"works for {len(paths):,} files"


# In the main process


def run(tokens: Any, options: argparse.Namespace, batches: list[list[int]]) -> list[Done]:
    """All batches through fresh workers."""
    data = pickle.dumps(TokenDataset(tokens, options.context))
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.workers, set_up, (data, options.memory << 20, options.handles)) as pool:
        done = list(pool.imap_unordered(read_batch, batches, chunksize=4))
        pool.close()
        pool.join()
    return done


def pinned(shape: tuple[int, int]) -> tuple[Any, Any]:
    """The memory for batches, which a GPU can copy from by itself, and that GPU; without one, an array and None."""
    try:
        import torch

        if torch.cuda.is_available():
            return torch.empty(shape, dtype=torch.uint16, pin_memory=True), torch.device("cuda")
    except (ImportError, AttributeError):  # before torch 2.3 there is no uint16
        pass
    return np.empty(shape, TOKEN), None


def train(shards: Shards, starts: Tokens, length: int) -> tuple[int, float]:
    """Read batches of blocks; return how many tokens were wrong, and the microseconds per block."""
    out, device = pinned((starts.shape[1], length))
    wrong, seconds = 0, 0.0
    for number, batch in enumerate(starts):
        started = time.perf_counter()
        shards.blocks(batch, length, out=out)
        if number + 1 < len(starts):
            shards.prefetch(starts[number + 1], length)
        tokens = out if device is None else out.to(device, non_blocking=True).long()  # converted where it is used
        seconds += time.perf_counter() - started
        found = tokens if device is None else tokens.cpu().numpy()
        wrong += int((found != tokens_at(batch[:, None] + np.arange(length))).sum())
    return wrong, seconds / starts.size * 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--shards", type=int, default=5000, help="number of files")
    parser.add_argument("--tokens", type=int, default=16384, help="approximate number of tokens in each file")
    parser.add_argument("--context", type=int, default=512, help="tokens in a sequence")
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32, help="sequences in a batch")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--memory", type=int, default=64, help="MiB that each worker may have mapped")
    parser.add_argument(
        "--handles", type=int, default=256, help="maps and cached descriptors that each worker may have"
    )
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as folder:
        paths = make_shards(Path(folder), options.shards, options.tokens)
        shards = Shards(paths, TOKEN)
        print(f"{len(paths):,} files, {len(shards):,} tokens, {shards.nbytes >> 20} MiB")

        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print("np.memmap kept for each file, with 1,024 descriptors:", pool.apply(keep_memmaps, (paths, 1024)))

        everything = len(TokenDataset(shards, options.context))
        size = len(pickle.dumps(TokenDataset(shards, options.context)))
        print(
            f"{options.workers} workers, {size:,} bytes pickled to each; us of CPU for a sequence, all tokens checked:"
        )
        chance = np.random.default_rng(1)
        shape = options.batches, options.batch_size
        evenly = chance.integers(0, everything, shape)
        few = chance.integers(0, max(everything // 50, 1), shape)
        weighted = np.where(chance.random(shape) < 0.9, few, evenly)
        wrong = most_handles = most_memory = 0
        for kind, chosen in (("evenly", evenly), ("weighted", weighted)):
            costs = []
            for tokens in (MemmapsAnew(paths), shards):
                done = run(tokens, options, chosen.tolist())
                wrong += sum(batch.wrong for batch in done)
                costs.append(sum(batch.seconds for batch in done) / chosen.size * 1e6)
            most_handles = max(most_handles, *(batch.handles for batch in done))
            most_memory = max(most_memory, *(batch.memory for batch in done))
            print(
                f"  {kind:9} np.memmap anew {costs[0]:6.1f}   smmap {costs[1]:6.1f}   ratio {costs[0] / costs[1]:.1f}"
            )
        starts = chance.integers(0, len(shards) - options.context, (options.batches, options.batch_size))
        with smmap.SlidingWindowMapManager(-1, options.memory << 20, options.handles) as manager:
            found, cost = train(Shards(paths, TOKEN, manager=manager), starts, options.context + 1)
        wrong += found
        print(f"  blocks    into one array, the next batch announced: {cost:.1f} us of time for a sequence")
        print(f"smmap used at most {most_handles} handles and {most_memory / 2**20:.1f} MiB in any worker")
        print(f"wrong tokens: {wrong}")
        if most_handles > options.handles or most_memory > options.memory << 20:
            print("the limits were not kept", file=sys.stderr)
            return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
