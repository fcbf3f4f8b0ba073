"""Real git repositories, made by git from fixed content, and what `git cat-file` says that is in them.

Everything is fixed (content, names, dates, one packing thread), so that ids are the same in every run. Knows nothing of
smmap or gitdb: it is also used by the process that reads with another smmap.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["GitObject", "GitRepo", "Packed", "incompressible", "make_large_pack", "make_varied_repo", "text"]

_CONFIG = """\
[core]
	bare = true
	repositoryformatversion = 0
[gc]
	auto = 0
	autoDetach = false
[maintenance]
	auto = false
[pack]
	threads = 1
[user]
	name = A U Thor
	email = author@example.com
"""


class GitObject(NamedTuple):
    type: bytes
    data: bytes


class Packed(NamedTuple):
    size: int
    """Bytes that it takes in its pack."""
    depth: int
    """How many deltas it is made of."""
    base: str
    """The object that a delta is against, or ""."""


class GitRepo:
    """A bare repository in a folder whose name ends in `.git`."""

    def __init__(self, path: Path) -> None:
        assert path.name.endswith(".git")
        self.path = path

    @classmethod
    def init(cls, path: Path) -> GitRepo:
        repo = cls(path)
        path.mkdir(parents=True)
        repo.git("init", "--quiet", "--bare", "--template=", "--initial-branch=main", ".")
        (path / "config").write_text(_CONFIG)
        return repo

    @property
    def objects(self) -> Path:
        return self.path / "objects"

    @property
    def packs(self) -> list[Path]:
        return sorted((self.objects / "pack").glob("pack-*.pack"))

    @property
    def loose(self) -> list[str]:
        """Names of the loose objects."""
        return sorted(file.parent.name + file.name for file in self.objects.glob("[0-9a-f][0-9a-f]/*"))

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=environment(self.path),
            input=stdin,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"git {' '.join(arguments)}: {done.stderr.decode(errors='replace')}")
        return done.stdout

    def catalogue(self) -> dict[str, GitObject]:
        """Every object of the repository, whole, as git itself gives it."""
        with subprocess.Popen(
            ["git", "cat-file", "--batch", "--batch-all-objects", "--buffer"],
            cwd=self.path,
            env=environment(self.path),
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            found = {}
            for line in process.stdout:
                name, kind, size = line.split()
                found[name.decode()] = GitObject(kind, process.stdout.read(int(size)))
                assert process.stdout.read(1) == b"\n"
        assert process.returncode == 0
        return found

    def packed(self) -> dict[str, Packed]:
        """Every packed object; where it is in several packs, the entry that takes most."""
        found: dict[str, Packed] = {}
        for pack in self.packs:
            for line in self.git("verify-pack", "-v", str(pack.with_suffix(".idx"))).splitlines():
                name, *words = line.decode().split()
                if len(name) == 40:
                    depth, base = (int(words[4]), words[5]) if len(words) == 6 else (0, "")
                    entry = Packed(int(words[2]), depth, base)
                    found[name] = max(entry, found.get(name, entry))
        return found

    def commit(self, changes: list[dict[str, bytes]], *options: str, tag: str = "") -> None:
        """Add one commit for each set of files on top of the branch; an annotated tag on the last one."""
        count = int(self.git("rev-list", "--count", "--all"))
        stream = b"".join(self._stream(changes, tag, count))
        self.git(*options, "fast-import", "--quiet", "--done", stdin=stream)

    def _stream(self, changes: list[dict[str, bytes]], tag: str, before: int) -> Iterator[bytes]:
        for number, files in enumerate(changes, before):
            when = f"A U Thor <author@example.com> {1_600_000_000 + 60 * number} +0130\n"
            message = f"Change {number}\n\nin {len(files)} files: \u00e4\u00f6\u00fc \u4e16\n".encode()
            yield b"commit refs/heads/main\ncommitter " + when.encode()
            yield b"data %d\n%b\n" % (len(message), message)
            if number == before > 0:
                yield b"from refs/heads/main^0\n"
            for name, data in files.items():
                yield b"M 100644 inline %b\ndata %d\n%b\n" % (name.encode(), len(data), data)
        if tag:
            when = f"A U Thor <author@example.com> {1_600_000_000 + 60 * (before + len(changes))} -0700\n"
            message = f"Release {tag}\n".encode()
            yield b"tag %b\nfrom refs/heads/main\ntagger %b" % (tag.encode(), when.encode())
            yield b"data %d\n%b\n" % (len(message), message)
        yield b"done\n"


def environment(home: Path) -> dict[str, str]:
    """An environment in which git reads no configuration but the repository's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {
        **kept,
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CEILING_DIRECTORIES": str(home.parent),
    }


def incompressible(name: object, size: int) -> bytes:
    return random.Random(f"bytes {name}").randbytes(size)


def text(name: object, size: int) -> bytes:
    """Lines of words with their number: compresses to about a third and differs everywhere."""
    source = random.Random(f"text {name}")
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 9))) for _ in range(400)]
    lines: list[str] = []
    total = 0
    while total < size:
        lines.append(f"{len(lines):06d} {' '.join(source.choices(words, k=8))}\n")
        total += len(lines[-1])
    return "".join(lines).encode()[:size]


def _edited(data: bytes, source: random.Random) -> bytes:
    """The text with some lines changed, added and taken away: what makes git store a delta."""
    lines = data.splitlines(keepends=True)
    for _ in range(3):
        place = source.randrange(len(lines))
        lines[place : place + source.randint(0, 2)] = [b"edited %d\n" % source.getrandbits(64) for _ in range(2)]
    return b"".join(lines)


def make_varied_repo(path: Path, *, large: int = 12, granule: int = 4096) -> GitRepo:
    """Some 1,500 objects of every type in five packs of different kinds, and loose ones.

    `large` blobs of 1.2 to 2.5 MiB that do not compress make packs that are far larger than a window has to be.
    """
    repo = GitRepo.init(path)
    source = random.Random(20)
    files = {f"src/{i % 5}/module_{i}.txt": text(i, 3_000 * (i + 1)) for i in range(16)}
    edges = [0, 1, 2, 19, 20, 21, 63, 64, 127, 128, granule - 1, granule, granule + 1, 2 * granule, 65535, 65536, 65537]
    history = [dict(files)]
    history[0].update({f"edges/{size}.bin": incompressible(f"edge {size}", size) for size in edges})
    history[0].update({f"edges/{size}.txt": text(f"edge {size}", size) for size in edges})
    for _ in range(220):
        changed = source.sample(sorted(files)[::3], 2)  # few files, so that chains of deltas get long
        files.update({name: _edited(files[name], source) for name in changed})
        history.append({name: files[name] for name in changed})

    # long chains of deltas that name their base by its place
    repo.commit(history[:150], tag="v1")
    repo.git("repack", "-adfq", "--depth=50", "--window=20")
    # the same, but bases named by id, under an index of the first version
    repo.commit(history[150:], "-c", "fastimport.unpackLimit=10000", tag="v2")
    options = ["-c", "repack.useDeltaBaseOffset=false", "-c", "pack.indexVersion=1"]
    repo.git(*options, "repack", "-dfq", "--depth=50", "--window=20")
    # large blobs: incompressible, compressible, and one that compresses to nearly nothing
    blobs = {f"big/{i}.bin": incompressible(f"big {i}", 1_200_000 + 113_337 * i) for i in range(large)}
    blobs["big/text.txt"] = text("big", 3_500_000)
    blobs["big/counting.txt"] = b"".join(b"%d\n" % i for i in range(300_000))
    blobs["big/runs.bin"] = b"".join(bytes([i % 251]) * (i % 997) for i in range(6_000))
    names = sorted(blobs)
    repo.commit([{name: blobs[name]} for name in names[: len(names) // 2]], "-c", "fastimport.unpackLimit=1", tag="v3")
    repo.commit([{name: blobs[name]} for name in names[len(names) // 2 :]], "-c", "fastimport.unpackLimit=1")
    # versions of a large text: deltas on a large base
    longer = text("longer", 700_000)
    versions = []
    for i in range(12):
        longer = _edited(longer, source)
        versions.append({"big/longer.txt": longer, f"big/small_{i}": incompressible(f"small {i}", 50 + i)})
    repo.commit(versions, "-c", "fastimport.unpackLimit=1", tag="v4")
    # and what has not been packed yet: few enough objects for git to leave them loose
    files.update({name: _edited(files[name], source) for name in sorted(files)[:5]})
    repo.commit(
        [
            {name: files[name] for name in sorted(files)[:5]},
            {"loose/incompressible.bin": incompressible("loose", 1_500_000), "loose/text.txt": text("loose", 900_000)},
            {"loose/empty": b"", "loose/one": b"1"},
        ],
        tag="v5",
    )
    return repo


def make_large_pack(path: Path, size: int, *, seed: int = 30) -> tuple[GitRepo, dict[str, int]]:
    """A repository with one pack of at least `size` bytes of blobs that do not compress; the blobs' names and sizes.

    Blobs over `core.bigFileThreshold` go into the pack as they are, without a search for deltas, as large files do in
    real repositories. Nothing is held: each blob is made, written, forgotten.
    """
    repo = GitRepo.init(path)
    source = random.Random(seed)
    sizes: list[int] = []
    while sum(sizes) < size:
        sizes.append(source.randint(0, source.choice([100_000, 24 << 20, 96 << 20])))
    marks = path / "marks"
    command = ["git", "-c", "core.bigFileThreshold=512k", "-c", "core.compression=1", "-c", "fastimport.unpackLimit=1"]
    with subprocess.Popen(
        [*command, "fast-import", "--quiet", "--done", f"--export-marks={marks}"],
        cwd=path,
        env=environment(path),
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        for mark, length in enumerate(sizes, 1):
            process.stdin.write(b"blob\nmark :%d\ndata %d\n" % (mark, length))
            blob = random.Random(seed * 1000 + mark)
            for start in range(0, length, 1 << 20):
                process.stdin.write(blob.randbytes(min(1 << 20, length - start)))
            process.stdin.write(b"\n")
        process.stdin.write(b"done\n")
        process.stdin.close()
    assert process.returncode == 0
    named = (line.split() for line in marks.read_text().splitlines())
    return repo, {name: sizes[int(mark[1:]) - 1] for mark, name in named}
