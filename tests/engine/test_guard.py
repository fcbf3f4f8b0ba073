"""Files that others truncate while they are mapped: what the fast engine copies is an error, and the process lives.

Each test has a process of its own, which must end well, or die as it would have without a guard.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import LINUX, G, World, payload, run_python

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a map has all its bytes there")

SIZE = 10 * G + 300
PRELUDE = """
import ctypes, gc, mmap, os, re, signal, struct, sys, threading, time, warnings
import smmap
from mmap import ALLOCATIONGRANULARITY as G
assert smmap.engine == "fast"
path, other = sys.argv[1:3]
W = 4 * G
with open(path, "rb") as file:
    data = file.read()
with open(other, "rb") as file:
    bystander = file.read()
manager = smmap.SlidingWindowMapManager(window_size=W)

def mapped(path=path, manager=manager, **options):
    buffer = manager.buffer(path, **options)
    for start in range(0, len(buffer), W):
        buffer.view(start, start + 1)
    return buffer

def fails(call, left, name=path):
    try:
        got = call()
    except smmap.FileChangedError as error:
        assert name in str(error), error
        assert f"truncated to {left} bytes, from {len(data)}" in str(error), error
        assert re.search(r"\\[\\d+, \\d+\\) is no longer", str(error)), error
        return error
    raise AssertionError(f"no error, but {got!r:.100}")

def is_well(left):
    manager._check()
    assert witness[:] == bystander
    assert manager.buffer(path)[:] == data[:left] == mapped()[:]
    manager._check()

def ends_at_zero():
    gc.collect()
    manager.collect()
    manager._check()
    assert manager.stats()[:7] == (0,) * 7, manager.stats()

"""
WITNESS = """
witness = mapped(other)
"""


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A file of ten granules and a bit, and another one."""
    try:
        importlib.import_module("smmap._engine.fast")
    except ImportError:
        pytest.skip("the fast engine is not built")
    names = tmp_path / "data", tmp_path / "other"
    for name in names:
        name.write_bytes(payload(SIZE, name.name).replace(b"\0", b"\1"))
    before = os.environ.get("SMMAP_ENGINE")
    os.environ["SMMAP_ENGINE"] = "fast"
    yield (str(names[0]), str(names[1]))
    os.environ.pop("SMMAP_ENGINE") if before is None else os.environ.update(SMMAP_ENGINE=before)


def lives(script: str, paths: tuple[str, str], *args: object, before: str = "", **kwargs: Any) -> str:
    """What the script prints, which ends well. `before`: what is to be done before the first map."""
    return run_python(PRELUDE + before + WITNESS + script, *paths, *args, **kwargs).stdout


def dies(script: str, paths: tuple[str, str], *args: object, before: str = "") -> tuple[str, str]:
    """What the script wrote to its streams before it died of SIGBUS."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + before + WITNESS + script, *paths, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGBUS, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


# Copies raise

READS = {
    "byte": "buffer[7 * G]",
    "byte counted from the end": "buffer[-1]",
    "bool as an index": "buffer[numbers.Index(7 * G)]",
    "slice": "buffer[7 * G : 7 * G + 100]",
    "slice of one byte": "buffer[7 * G : 7 * G + 1]",
    "slice across the new end": "buffer[5 * G - 10 : 5 * G + 10]",
    "slice over many windows": "buffer[10 : 10 * G]",
    "slice of all": "buffer[:]",
    "slice with a step": "buffer[3 : 9 * G : 7]",
    "slice with a large step": "buffer[3 : 9 * G : 1000]",
    "slice backwards": "buffer[::-1]",
    "bytes": "bytes(buffer)",
    "iteration": "list(buffer)",
    "iteration backwards": "list(reversed(buffer))",
    "in": "b'nowhere' in buffer",
    "comparison": "buffer == witness",
    "find": "buffer.find(b'nowhere')",
    "find one byte": "buffer.find(0)",
    "rfind": "buffer.rfind(b'nowhere')",
    "index": "buffer.index(data[9 * G : 9 * G + 20])",
    "count": "buffer.count(b'nowhere')",
    "finditer": "list(buffer.finditer(b'nowhere'))",
    "readinto": "buffer.readinto(7 * G, bytearray(100))",
    "readinto over windows": "buffer.readinto(3, bytearray(9 * G))",
    "unpack_from": "buffer.unpack_from('<Q', 7 * G)",
    "iter_unpack": "list(buffer.iter_unpack('<I'))",
    "file object": "reader.seek(5 * G + 1) and reader.read(10)",
    "file object, all": "reader.read()",
    "file object, lines": "list(reader)",
    "map, byte": "cursor.map()[3 * G]",
    "map, slice": "cursor.map()[3 * G : 3 * G + 9]",
    "map, slice with a step": "cursor.map()[::3]",
    "map, slice backwards": "cursor.map()[::-3]",
    "map, iteration": "list(cursor.map())",
    "map, find": "cursor.map().find(b'nowhere')",
    "map, rfind": "cursor.map().rfind(b'nowhere')",
    "gather": "buffer.gather([7 * G, 10], 8)",
    "ranges": "buffer.ranges([10, 7 * G], [20, 7 * G + 10])",
}


@pytest.mark.parametrize("read", READS)
def test_read_of_what_is_gone_is_an_error(read: str, paths: tuple[str, str]) -> None:
    if read in ("gather", "ranges") and not hasattr(smmap.SlidingWindowMapBuffer, read):
        pytest.skip(f"there is no {read}() yet")
    script = """
class numbers:
    class Index(int):
        def __index__(self): return int(self)
buffer = mapped()
reader = manager.open(path)
cursor = manager.make_cursor(path).use_region(4 * G, 4 * G)
os.truncate(path, 5 * G)
fails(lambda: %s, 5 * G)
assert all(type(call) is bytes for call in [witness[:9], manager.buffer(path)[:9]])
is_well(5 * G)
cursor.close(), buffer.close(), reader.close()
del witness
ends_at_zero()
"""
    lives(script % READS[read], paths)


def test_copies_of_many_pieces_are_left_in_any_of_them(paths: tuple[str, str]) -> None:
    """Copies of more than 64 KiB give up the interpreter's lock, those of more than 16 MiB are made piece by piece."""
    script = """
size = 40 << 20
with open(path, "wb") as file:
    for number in range(1, size // G + 1):
        file.write(number.to_bytes(4, "little") * (G // 4))
with open(path, "rb") as file:
    data = file.read()
manager = smmap.SlidingWindowMapManager(window_size=64 << 20)
for left in (39 << 20, 20 << 20, (16 << 20) + G, 80 << 10, 0):
    with open(path, "wb") as file:
        file.write(data)
    buffer = manager.buffer(path)
    buffer.view()
    cursor = manager.make_cursor(path).use_region(0, size)
    region = cursor.map()
    os.truncate(path, left)
    fails(lambda: buffer[:], left)
    fails(lambda: region[5:], left)
    fails(lambda: region.find(b"nowhere"), left)
    fails(lambda: region.rfind(b"nowhere"), left)
    assert manager.buffer(path)[:] == data[:left]
    cursor.close()
    del region, buffer
"""
    lives(script, paths)


@pytest.mark.parametrize("left", [3 * G + 100, 10 * G + 100, 10 * G, 5, 0], ids=str)
@pytest.mark.parametrize("window", [0, 4 * G, 2 * G], ids=str)
def test_file_cut_within_a_page_is_an_error_and_not_zeros(left: int, window: int, paths: tuple[str, str]) -> None:
    """No fault tells of what is missing of the page in which the file ends now."""
    script = """
left, window = map(int, sys.argv[3:])
page = left // G * G
reads = {
    "byte": lambda buffer: buffer[left],
    "last byte of the page": lambda buffer: buffer[min(page + G, len(data)) - 1],
    "bytes": lambda buffer: buffer[left : left + 9],
    "bytes across": lambda buffer: buffer[max(left - 9, 0) : left + 1],
    "bytes to the end of the page": lambda buffer: buffer[left + 1 : page + G],
    "bytes with a step": lambda buffer: buffer[page : page + G : 5],
    "bytes backwards": lambda buffer: buffer[left + 20 : max(left - 20, 0) : -3],
    "search": lambda buffer: buffer.find(bytes(8), page),
    "search of one": lambda buffer: buffer.find(0, page),
    "search backwards": lambda buffer: buffer.rfind(0, 0, page + G),
    "read": lambda buffer: buffer.readinto(left, bytearray(1)),
}
for name, read in reads.items():
    with open(path, "wb") as file:
        file.write(data)
    manager = smmap.SlidingWindowMapManager(window_size=window)
    buffer = manager.buffer(path)
    for start in range(0, len(data), window or len(data)):
        buffer.view(start, start + 1)
    if left > 10:
        assert buffer[left - 10 : left] == data[left - 10 : left]
    os.truncate(path, left)
    if left > 10:
        assert buffer[left - 10 : left] == data[left - 10 : left]
        assert buffer[left - 1] == data[left - 1]
    try:
        got = read(buffer)
    except smmap.FileChangedError as error:
        assert f"truncated to {left} bytes" in str(error), (name, error)
    else:
        raise AssertionError((name, got))
    manager._check()
"""
    lives(script, paths, left, window)


def test_zeros_of_a_file_are_read_as_before(paths: tuple[str, str]) -> None:
    script = """
with open(path, "wb") as file:
    file.write(bytes(9 * G) + b"x" + bytes(77))
for window in 0, 2 * G:
    for access in "normal", "random":
        manager = smmap.SlidingWindowMapManager(window_size=window)
        buffer = mapped(manager=manager, access=access)
        expected = bytes(9 * G) + b"x" + bytes(77)
        assert buffer[:] == expected
        assert [buffer[place] for place in (0, 2 * G - 1, 2 * G, -1, -78)] == [0, 0, 0, 0, 120]
        assert buffer[5 : 9 * G : 3] == expected[5 : 9 * G : 3]
        assert buffer.find(b"x") == buffer.rfind(b"x") == 9 * G
        assert buffer.find(bytes(9)) == 0 and buffer.rfind(bytes(9)) == len(buffer) - 9
        os.rename(path, path + "2")  # where its name leads nowhere
        assert buffer[:] == expected
        os.rename(path + "2", path)
"""
    lives(script, paths)


def test_other_clients_of_the_file_get_errors_and_never_a_mixture(paths: tuple[str, str]) -> None:
    """Not even when the file was grown again, with other bytes."""
    script = """
buffer, second = mapped(), manager.buffer(path)
cursor = manager.make_cursor(path)
reader = manager.open(path)
os.truncate(path, 5 * G)
fails(lambda: buffer[7 * G], 5 * G)
with open(path, "r+b") as file:
    file.seek(5 * G)
    file.write(bystander[5 * G :])
for call in (
    lambda: buffer[0], lambda: buffer[:], lambda: second[9 * G], lambda: second[3], lambda: reader.read(9),
    lambda: cursor.use_region(0, 9), buffer.refresh, second.refresh, lambda: buffer.view(0, 4),
    second.__iter__().__next__,
):
    try:
        got = call()
    except smmap.FileChangedError as error:
        assert path in str(error)
    else:
        raise AssertionError(got)
assert manager.buffer(path)[:] == data[: 5 * G] + bystander[5 * G :]
del buffer, second, cursor, reader, witness
ends_at_zero()
"""
    lives(script, paths)


def test_pinned_region_and_views_of_it_stay_as_they_are(paths: tuple[str, str]) -> None:
    script = """
cursor = manager.make_cursor(path).use_region(4 * G, 4 * G)
buffer, view = mapped(), cursor.buffer()
os.truncate(path, 5 * G)
fails(lambda: buffer[7 * G], 5 * G)
fails(lambda: buffer[6 * G], 5 * G)  # the map is as it was
assert view[:G] == data[4 * G : 5 * G] == cursor.map()[:G]
manager._check()
assert manager.stats().pinned == 1
with open(path, "r+b") as file:
    file.seek(5 * G)
    file.write(data[5 * G :])
assert view == data[4 * G : 8 * G]
del view, witness
cursor.close()
ends_at_zero()
"""
    lives(script, paths)


def test_name_that_leads_elsewhere_says_so(paths: tuple[str, str]) -> None:
    script = """
manager = smmap.SlidingWindowMapManager()  # no descriptor is kept of a file that is one window
buffer = mapped(manager=manager)
os.rename(path, path + "2")
os.rename(other, path)
os.truncate(path + "2", 5 * G)
try:
    buffer[7 * G]
except smmap.FileChangedError as error:
    assert "truncated" in str(error) and path in str(error), error
else:
    raise AssertionError
assert manager.buffer(path)[:] == bystander
"""
    lives(script, paths)


def test_user_descriptor(paths: tuple[str, str]) -> None:
    script = """
number = os.open(path, os.O_RDWR)
for manager in manager, smmap.SlidingWindowMapManager():
    os.pwrite(number, data, 0)
    buffer = mapped(number, manager)
    os.ftruncate(number, 5 * G)
    fails(lambda: buffer[7 * G], 5 * G, f"descriptor {number}")
    assert manager.buffer(number)[:] == data[: 5 * G]
"""
    lives(script, paths)


# Threads and processes


def test_thread_that_another_library_started(paths: tuple[str, str]) -> None:
    script = """
buffer = mapped()
os.truncate(path, 5 * G)
done = []
@ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
def main(_):
    done.append(fails(lambda: buffer[7 * G], 5 * G))
libc = ctypes.CDLL(None)
thread = ctypes.c_ulong()
assert not libc.pthread_create(ctypes.byref(thread), None, main, None)
assert not libc.pthread_join(thread, None)
assert len(done) == 1
is_well(5 * G)
"""
    if not LINUX:
        pytest.skip("how threads are named differs")
    lives(script, paths)


def test_threads_that_fault_together(paths: tuple[str, str]) -> None:
    script = """
for round in range(30):
    with open(path, "wb") as file:
        file.write(data)
    buffers = [mapped() for _ in range(8)]
    barrier = threading.Barrier(9)
    errors = []
    def run(buffer, offset):
        barrier.wait()
        try:
            while True:
                for start in range(offset, len(data) - 9, 37):
                    assert buffer[start : start + 9] == data[start : start + 9]
        except smmap.FileChangedError as error:
            errors.append(error)
    threads = [threading.Thread(target=run, args=(buffer, place)) for place, buffer in enumerate(buffers)]
    for thread in threads:
        thread.start()
    barrier.wait()
    os.truncate(path, 2 * G)
    for thread in threads:
        thread.join()
    manager._check()
    assert len(errors) == 8
is_well(2 * G)
"""
    lives(script, paths)


def test_eight_threads_under_truncation_without_a_pause_read_no_wrong_byte(paths: tuple[str, str]) -> None:
    """Another process cuts the file at a page, and writes it again, the same bytes. 10 seconds.

    Read as zeros may be, rarely, what the system clears in that moment: `os.pread` reads it, too.
    """
    script = """
import random
from stress.run_torn_reads import DATA as data, SIZE as size, start_writer, torn
with open(path, "wb") as file:
    file.write(data)
writer = start_writer(path)
stop = time.monotonic() + 10
counts, wrong, zeros = [], [], []
manager = smmap.SlidingWindowMapManager(window_size=8 * G, max_memory_size=40 * G)
def run(seed):
    numbers = random.Random(seed)
    right = errors = 0
    buffer = None
    while time.monotonic() < stop:
        try:
            if buffer is None:
                buffer = manager.buffer(path)
            start = numbers.randrange(size)
            length = numbers.choice((1, 9, 3000, 5 * G, 20 * G))
            kind = numbers.randrange(4)
            if start + length > len(buffer):
                buffer = None if len(buffer) < size else buffer
                continue
            if kind == 0:
                got, expected = buffer[start], data[start]
            elif kind == 1:
                target = bytearray(length)
                got, expected = target[: buffer.readinto(start, target)], data[start : start + length]
            elif kind == 2:
                needle = data[start : start + 16]
                got, expected = buffer.find(needle, max(start - 2000, 0), len(buffer)), data.find(needle)
                if start + 16 > len(buffer):
                    continue
            else:
                got, expected = buffer[start : start + length], data[start : start + length]
            right += got == expected
            if got != expected:
                cleared = got == (0, None, -1)[kind] if kind in (0, 2) else torn(got, start, data)
                (zeros if cleared else wrong).append((kind, start, length, len(buffer)))
        except smmap.FileChangedError:
            errors += 1
            buffer = None
    counts.append((right, errors))
threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
writer.kill()
writer.wait()
right, errors = map(sum, zip(*counts))
assert len(counts) == 8
assert not wrong, (counts, wrong[:2])
assert len(zeros) < 1 + right // 50_000, (counts, zeros)
assert right > 100 and errors > 10, counts
assert witness[:] == bystander
manager._check()
print(right, errors)
"""
    lives(script, paths, timeout=120)


def test_child_after_fork(paths: tuple[str, str]) -> None:
    script = """
buffer = mapped()
os.truncate(path, 5 * G)
warnings.simplefilter("ignore")  # 3.12 warns of threads: there is one that ends this test if it hangs
child = os.fork()
fails(lambda: buffer[7 * G], 5 * G)
is_well(5 * G)
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    sys.stdout.flush()
    os._exit(0)
"""
    lives(script, paths, options=())


# The handler


def test_no_handler_before_the_first_map(paths: tuple[str, str]) -> None:
    before = """
libc = ctypes.CDLL(None, use_errno=True)
def handler():
    now = (ctypes.c_void_p * 64)()
    assert not libc.sigaction(signal.SIGBUS, None, now)
    return now[0]
at_first = handler()
smmap.SlidingWindowMapManager(guard="off").buffer(path).view(0, 9)
smmap.SlidingWindowMapManager(backing="read").buffer(path).view(0, 9)
smmap.SlidingWindowMapManager().buffer(path)
assert handler() == at_first
"""
    lives("assert handler() != at_first", paths, before=before)


@pytest.mark.parametrize("when", ["before", "after", "after, and another map", "before, and again"])
def test_faulthandler(when: str, paths: tuple[str, str]) -> None:
    """It reports what is not a copy of ours, once; and copies are guarded from the next map on."""
    before = """
import faulthandler
when = sys.argv[3]
if "before" in when:
    faulthandler.enable()
"""
    script = """
def another():
    return mapped(other, smmap.SlidingWindowMapManager())
if "again" in when:
    faulthandler.disable()
    another()
buffer = mapped()
if when != "before":
    faulthandler.enable()
if "another" in when or "again" in when:
    another()
view = buffer.view(4 * G, 8 * G)
os.truncate(path, 5 * G)
if when != "after":
    fails(lambda: buffer[7 * G], 5 * G)
    is_well(5 * G)
print("alive", flush=True)
view[3 * G]
"""
    out, err = dies(script, paths, when, before=before)
    assert out == "alive\n"
    assert err.count("Fatal Python error: Bus error") == 1
    assert err.count('File "<string>"') == 1


def test_foreign_map_dies_as_before(paths: tuple[str, str]) -> None:
    script = """
with open(path, "rb") as file:
    foreign = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
buffer = mapped()
os.truncate(path, 5 * G)
fails(lambda: buffer[7 * G], 5 * G)
print("alive", flush=True)
foreign[7 * G]
"""
    assert dies(script, paths) == ("alive\n", "")


def test_target_that_is_gone_dies_as_before(paths: tuple[str, str]) -> None:
    """A copy is left where its source is gone, not for any other fault in it."""
    script = """
with open(path, "r+b") as file:
    foreign = mmap.mmap(file.fileno(), 0)
os.truncate(path, 5 * G)
witness.readinto(0, bytearray(9 * G))
print("alive", flush=True)
witness.readinto(0, foreign)
"""
    assert dies(script, paths) == ("alive\n", "")


@pytest.mark.parametrize("how", ["kill", "raise_signal"])
def test_signal_that_is_sent_does_what_it_did_before(how: str, paths: tuple[str, str]) -> None:
    before = """
got = []
def send():
    os.kill(os.getpid(), signal.SIGBUS) if sys.argv[3] == "kill" else signal.raise_signal(signal.SIGBUS)
signal.signal(signal.SIGBUS, lambda *args: got.append(args))
"""
    script = """
for count in range(1, 300):
    send()
    assert len(got) == count
signal.signal(signal.SIGBUS, signal.SIG_IGN)
buffer = mapped(manager=smmap.SlidingWindowMapManager())
send()
signal.signal(signal.SIGBUS, signal.SIG_DFL)
buffer = mapped(manager=smmap.SlidingWindowMapManager())
os.truncate(path, 5 * G)
fails(lambda: buffer[7 * G], 5 * G)
print("alive", flush=True)
send()
"""
    assert dies(script, paths, how, before=before) == ("alive\n", "")


@pytest.mark.parametrize("when", ["before", "after"])
def test_handler_in_python_does_not_make_a_fault_last_for_ever(when: str, paths: tuple[str, str]) -> None:
    """It returns to the very instruction that faulted: without a guard, such a process would never end."""
    before = """
got = []
if sys.argv[3] == "before":
    signal.signal(signal.SIGBUS, lambda *args: got.append(args))
"""
    script = """
buffer = mapped(manager=smmap.SlidingWindowMapManager())
if sys.argv[3] == "after":
    signal.signal(signal.SIGBUS, lambda *args: got.append(args))
    more = mapped(other, smmap.SlidingWindowMapManager())  # looks again
view = buffer.view(4 * G, 8 * G)
os.truncate(path, 5 * G)
fails(lambda: buffer[7 * G], 5 * G)
assert not got
print("alive", flush=True)
view[3 * G]
"""
    assert dies(script, paths, when, before=before) == ("alive\n", "")


def test_handler_that_others_put_aside_and_restore_works_as_before(paths: tuple[str, str]) -> None:
    if not LINUX:
        pytest.skip("knows how long Linux's sigaction is")
    script = """
libc = ctypes.CDLL(None, use_errno=True)
ours, now = (ctypes.c_void_p * 64)(), (ctypes.c_void_p * 64)()
for _ in range(50):
    assert not libc.sigaction(signal.SIGBUS, None, ours)
    signal.signal(signal.SIGBUS, lambda *args: None)
    mapped(other, smmap.SlidingWindowMapManager())  # puts ours above that one
    assert not libc.sigaction(signal.SIGBUS, None, now)
    assert now[0] == ours[0]
    signal.signal(signal.SIGBUS, signal.SIG_DFL)
    assert not libc.sigaction(signal.SIGBUS, ours, None)
buffer = mapped()
view = buffer.view(4 * G, 8 * G)
os.truncate(path, 5 * G)
fails(lambda: buffer[7 * G], 5 * G)
print("alive", flush=True)
view[3 * G]
"""
    assert dies(script, paths) == ("alive\n", "")


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "siginfo"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_handlers_in_c_are_called_with_what_the_system_gave(plain: bool, when: str, paths: tuple[str, str]) -> None:
    """One that repairs: it maps zeros where a foreign map faults, again and again."""
    if not LINUX:
        pytest.skip("knows the layout of Linux's siginfo")
    before = """
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
calls = []
with open(path, "rb") as file:
    place = libc.mmap(None, 10 * G, 1, 2, file.fileno(), 0)
def repair(number, info=None, context=None):
    calls.append(number)
    at = info[2] if info else place + 7 * G
    assert at == place + 7 * G, (hex(at), hex(place))
    assert libc.mmap(at, G, 1, 0x32, -1, 0) == at
plain = sys.argv[4] == "True"
kind = ctypes.CFUNCTYPE(None, ctypes.c_int, *([] if plain else [ctypes.POINTER(ctypes.c_ulong), ctypes.c_void_p]))
function = kind(repair)
class Action(ctypes.Structure):
    _fields_ = [("call", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16)]
    _fields_ += [("flags", ctypes.c_int), ("old", ctypes.c_void_p)]
def install():
    action = Action(ctypes.cast(function, ctypes.c_void_p), flags=0 if plain else 4)
    assert not libc.sigaction(signal.SIGBUS, ctypes.byref(action), None)
if sys.argv[3] == "before":
    install()
"""
    script = """
buffer = mapped(manager=smmap.SlidingWindowMapManager())
if sys.argv[3] == "after":
    install()
    more = mapped(other, smmap.SlidingWindowMapManager())
os.truncate(path, 5 * G)
for round in range(50):
    with open(path, "rb") as file:
        assert libc.mmap(place + 7 * G, G, 1, 0x12, file.fileno(), 7 * G) == place + 7 * G
    assert ctypes.string_at(place + 7 * G, 1) == bytes(1)
assert calls == [signal.SIGBUS] * 50
fails(lambda: buffer[7 * G], 5 * G)
assert calls == [signal.SIGBUS] * 50
"""
    lives(script, paths, when, plain, before=before, options=())


# Views


def test_view_of_what_is_gone_ends_the_process_by_default(paths: tuple[str, str]) -> None:
    script = """
view = mapped().view(4 * G, 8 * G)
os.truncate(path, 5 * G)
assert view[:G] == data[4 * G : 5 * G]
print("alive", flush=True)
bytes(view)
"""
    assert dies(script, paths) == ("alive\n", "")


@pytest.mark.parametrize("call", ["make_cursor", "stats", "collect", "regions", "byte", "view", "move", "lost"])
def test_guarded_view_reads_zeros_and_is_reported(call: str, paths: tuple[str, str]) -> None:
    script = """
manager = smmap.SlidingWindowMapManager(window_size=W, guard="views")
buffer, bystanding = mapped(manager=manager), mapped(other, manager)
cursor = manager.make_cursor(path).use_region(4 * G, 10)
view, whole = buffer.view(4 * G, 8 * G), mapped(manager=manager).view()
os.truncate(path, 5 * G)
assert bytes(view) == data[4 * G : 5 * G] + bytes(3 * G)
assert whole[6 * G] == 0
calls = {
    "make_cursor": lambda: manager.make_cursor(other),
    "stats": manager.stats,
    "collect": manager.collect,
    "regions": manager.regions,
    "byte": lambda: buffer[4 * G],
    "view": lambda: buffer.view(4 * G, 4 * G + 9),
    "move": lambda: cursor.use_region(4 * G + 5, 9),
    "lost": cursor.buffer,
}
def told():
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            calls[sys.argv[3]]()
        except smmap.FileChangedError as error:
            assert path in str(error)
            assert sys.argv[3] in ("byte", "view", "move", "lost")
        else:
            assert sys.argv[3] not in ("byte", "view", "move", "lost")
    return [str(one.message) for one in found if one.category is RuntimeWarning]
first = told()
assert len(first) == 1 and path in first[0], first
assert told() == []
for read in (
    lambda: buffer[4 * G], lambda: buffer[4 * G : 4 * G + 9], lambda: buffer.view(4 * G, 8 * G), buffer.__bytes__,
    lambda: cursor.use_region(4 * G + 1, 9), cursor.buffer, cursor.map, lambda: buffer.find(b"x", 4 * G),
    buffer.refresh,
):
    try:
        got = read()
    except smmap.FileChangedError as error:
        assert path in str(error)
    else:
        raise AssertionError(got)
assert bytes(view) == data[4 * G : 5 * G] + bytes(3 * G)  # what you hold stays
assert bystanding[:] == bystander
assert manager.buffer(path)[:] == data[: 5 * G]
manager._check()
os.truncate(path, 4 * G)  # what was there still
assert bytes(view) == bytes(4 * G)
del view, whole
buffer.close(), cursor.close(), bystanding.close()
ends_at_zero()
"""
    lives(script, paths, call)


@pytest.mark.parametrize("count", [64, 65, 300])
def test_no_copy_has_zeros_however_many_views_have_read_some(count: int, paths: tuple[str, str]) -> None:
    """When they are read, the file has all its bytes again."""
    script = """
count = int(sys.argv[3])
W, most = 2 * G, 2 * G * count
data = os.urandom(most)
with open(path, "wb") as file:
    file.write(data)
manager = smmap.SlidingWindowMapManager(window_size=W, guard="views")
buffer = manager.buffer(path)
views = [buffer.view(start, start + W) for start in range(0, most, W)]
os.truncate(path, 0)
for view in views:
    assert view[9] == 0
del views, view
with open(path, "r+b") as file:
    file.write(data)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for start in range(0, most, W):
        for read in (
            lambda: buffer[start + 9], lambda: buffer[start + 9 : start + 20], lambda: buffer.find(bytes(9), start)
        ):
            try:
                got = read()
            except smmap.FileChangedError:
                pass
            else:
                raise AssertionError((start // W, got))
buffer.close()
"""
    lives(script, paths, count)


def test_older_clients_of_a_truncated_file_raise_in_all_its_windows(paths: tuple[str, str]) -> None:
    """Idle ones, however many there are, and one that a view keeps."""
    script = """
W, most = 2 * G, 200 * G
with open(path, "wb") as file:
    file.write(os.urandom(most))
manager = smmap.SlidingWindowMapManager(window_size=W)
buffer, other = mapped(manager=manager), manager.buffer(path)
view = buffer.view(W, W + 9)
os.truncate(path, W)
try:
    buffer[most - 9]
except smmap.FileChangedError:
    pass
for start in range(0, most, W):
    try:
        got = other[start + 5]
    except smmap.FileChangedError:
        pass
    else:
        raise AssertionError((start // W, got))
del view
buffer.close(), other.close()
"""
    lives(script, paths)


def test_guarded_views_do_not_change_what_copies_do(paths: tuple[str, str]) -> None:
    script = """
manager = smmap.SlidingWindowMapManager(window_size=W, guard="views")
buffer = mapped(manager=manager)
os.truncate(path, 5 * G)
fails(lambda: buffer[7 * G], 5 * G)
with warnings.catch_warnings():
    warnings.simplefilter("error")
    manager.collect()
"""
    lives(script, paths)


def test_map_that_a_user_holds_gives_no_zeros(paths: tuple[str, str]) -> None:
    """Its copies are the engine's, and errors; whatever a view of the same region made of it."""
    script = """
warnings.simplefilter("ignore")
manager = smmap.SlidingWindowMapManager(window_size=W, guard="views")
cursor = manager.make_cursor(path).use_region(4 * G, 4 * G)
region, view = cursor.map(), cursor.buffer()
os.truncate(path, 5 * G)
assert view[2 * G] == 0
for read in (
    lambda: region[2 * G], lambda: region[0], lambda: region[:9], lambda: region[: 4 * G], lambda: region[::5],
    lambda: region.find(b"x"), lambda: region.rfind(b"x"),
):
    fails(read, 5 * G)
"""
    lives(script, paths)


def test_foreign_map_dies_beside_guarded_views(paths: tuple[str, str]) -> None:
    script = """
manager = smmap.SlidingWindowMapManager(window_size=W, guard="views")
with open(path, "rb") as file:
    foreign = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
unguarded = mapped()
buffer = mapped(manager=manager)
view = unguarded.view(4 * G, 8 * G)
gone = [mapped(other, smmap.SlidingWindowMapManager(window_size=2 * G, guard="views")) for _ in range(400)]
del gone
os.truncate(path, 5 * G)
print("alive", flush=True)
foreign[7 * G] if sys.argv[3] == "foreign" else view[2 * G]
"""
    for which in "foreign", "unguarded":
        Path(paths[0]).write_bytes(payload(SIZE))
        assert dies(script, paths, which) == ("alive\n", "")


def test_copies_beside_views_that_read_zeros_are_right_or_errors(paths: tuple[str, str]) -> None:
    """Zeros come under a copy that is at work without the interpreter's lock, and are noticed before it is done."""
    script = """
import random
warnings.simplefilter("ignore")
data = random.Random(1).randbytes(24 << 20).replace(b"\\0", b"\\1")
starts = random.Random(2).sample(range(len(data) - 64), 30_000)
expected = b"".join(data[start : start + 64] for start in starts)
calls = [
    lambda: buffer.gather(starts, 64) == expected,
    lambda: b"".join(buffer.ranges(starts, [start + 64 for start in starts])) == expected,
    lambda: buffer[:] == data,
    lambda: buffer.find(bytes(1)) == -1,
    lambda: buffer.rfind(bytes(9)) == -1,
]
errors = rounds = 0
deadline = time.monotonic() + 6
while time.monotonic() < deadline:
    with open(path, "wb") as file:
        file.write(data)
    manager = smmap.SlidingWindowMapManager(window_size=0, guard="views")
    buffer = manager.buffer(path)
    view = buffer.view()
    call = calls[rounds % len(calls)]
    rounds += 1
    assert call()
    ready = threading.Event()
    got = []
    def run():
        ready.set()
        try:
            while True:
                got.append(call())
        except smmap.FileChangedError:
            got.append(None)
    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    time.sleep(random.random() / 100)
    os.truncate(path, random.randrange(len(data) // G) * G)
    assert view[-1] == view[len(data) - G] == 0
    manager.stats()  # notices
    thread.join()
    assert got.pop() is None
    assert all(got), (rounds, got)
assert rounds > 3
"""
    lives(script, paths, timeout=120)


def test_batch_from_a_region_that_was_zeroed_in_between_is_an_error(paths: tuple[str, str]) -> None:
    """It copies without the interpreter's lock, and the zeros may come, and be noticed, in the middle of that."""
    script = """
from smmap._engine import chosen as engine
warnings.simplefilter("ignore")
manager = smmap.SlidingWindowMapManager(window_size=0, guard="views")
buffer = manager.buffer(path)
view = buffer.view()
batch = engine.Batch([len(data)], None, [3, 7 * G], None, 9)
target = bytearray(batch.total)
batch.into(target)
while batch.serve(0, buffer._access):
    batch.read(0)
    break
os.truncate(path, 5 * G)
assert view[7 * G] == 0
manager.stats()
fails(lambda: batch.settle(0), 5 * G)
batch.close()
buffer.close()
del view, buffer, batch, witness
ends_at_zero()
"""
    lives(script, paths)


def test_map_at_the_place_of_a_guarded_one_that_is_gone_dies(paths: tuple[str, str]) -> None:
    if not LINUX:
        pytest.skip("looks into /proc")
    script = """
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
manager = smmap.SlidingWindowMapManager(window_size=0, guard="views")
view = manager.buffer(path).view()
with open("/proc/self/maps") as lines:
    place, = [int(line.split("-")[0], 16) for line in lines if line.rstrip().endswith(path)]
assert ctypes.string_at(place, 9) == data[:9]
del view
assert manager.collect() == 1
with open(path, "rb") as file:
    assert libc.mmap(place, 10 * G, 1, 0x11, file.fileno(), 0) == place
os.truncate(path, 5 * G)
print("alive", flush=True)
ctypes.string_at(place + 7 * G, 1)
"""
    assert dies(script, paths) == ("alive\n", "")


def test_guarded_view_read_by_many_threads(paths: tuple[str, str]) -> None:
    script = """
warnings.simplefilter("ignore")
for round in range(20):
    with open(path, "wb") as file:
        file.write(data)
    manager = smmap.SlidingWindowMapManager(window_size=0, guard="views")
    buffer = manager.buffer(path)
    views = [buffer.view() for _ in range(6)]
    barrier = threading.Barrier(7)
    found = []
    def run(view, number):
        barrier.wait()
        for start in range(number, 10 * G, 513):
            got = bytes(view[start : start + 9])
            assert all(a in (b, 0) for a, b in zip(got, data[start : start + 9])), start
        while view[5 * G]:
            pass
        found.append(bytes(view))
    threads = [threading.Thread(target=run, args=(view, number)) for number, view in enumerate(views)]
    for thread in threads:
        thread.start()
    barrier.wait()
    os.truncate(path, 3 * G)
    for thread in threads:
        thread.join()
    assert found == [data[: 3 * G] + bytes(len(data) - 3 * G)] * 6
    manager._check()
    try:
        buffer[0]
    except smmap.FileChangedError:
        pass
    else:
        raise AssertionError
"""
    lives(script, paths)


# Settings


def test_settings(paths: tuple[str, str]) -> None:
    script = """
for wrong in ("all", "", None, 1):
    try:
        smmap.SlidingWindowMapManager(guard=wrong)
    except ValueError as error:
        assert 'guard must be "copies", "views" or "off"' in str(error)
    else:
        raise AssertionError
os.environ["SMMAP_GUARD"] = "nothing"
try:
    smmap.default_manager()
except ValueError as error:
    assert "SMMAP_GUARD" in str(error), error
else:
    raise AssertionError
os.environ["SMMAP_GUARD"] = "views"
if sys.argv[3] == "configure":
    smmap.configure(guard="views")
    os.environ["SMMAP_GUARD"] = "off"
view = smmap.buffer(path).view()
os.truncate(path, 5 * G)
assert view[7 * G] == 0
try:
    smmap.StaticWindowMapManager(guard="views").buffer(path)
except RuntimeWarning as warning:  # by -W error
    assert path in str(warning)
else:
    raise AssertionError
"""
    for how in "environment", "configure":
        Path(paths[0]).write_bytes(payload(SIZE))
        lives(script, paths, how)


def test_off_dies_as_before(paths: tuple[str, str]) -> None:
    script = """
manager = smmap.SlidingWindowMapManager(guard="off")
buffer = mapped(manager=manager)
os.truncate(path, 5 * G)
print("alive", flush=True)
buffer[7 * G]
"""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, *paths],
        env={**os.environ, "PYTHONPATH": str(Path(smmap.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGBUS, "alive\n", "")


def test_plain_engine_refuses_to_guard_views(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMMAP_ENGINE", "plain")
    script = """
import smmap, sys
for guard in "copies", "off":
    assert smmap.SlidingWindowMapManager(guard=guard).buffer(sys.argv[1])[:] == open(sys.argv[1], "rb").read()
try:
    smmap.SlidingWindowMapManager(guard="views")
except ValueError as error:
    assert 'backing="read"' in str(error) and "fast engine" in str(error)
else:
    raise AssertionError
"""
    run_python(script, world.file(99).path, options=())
