"""`load` and `memmap` with the arguments of numpy's own, and archives of arrays, against what numpy gives."""

from __future__ import annotations

import functools
import io
import os
import pickle
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import LATE, LINUX, G, World, descriptors, maps

np: Any = pytest.importorskip("numpy")

import smmap.numpy  # noqa: E402
from smmap.numpy import LazyArray, MappedArray, MappedNpz, load, memmap  # noqa: E402

PYPY = sys.implementation.name == "pypy"
WINDOW = 2 * G

arrays_are_copies = pytest.mark.skipif(PYPY, reason="numpy on PyPy: arrays are copies")


def same(got: Any, want: Any) -> None:
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    assert got.tobytes() == want.tobytes()


# memmap

FIELDS = [("a", "<i2"), ("b", ">f8"), ("c", "S3")]
MAPS: dict[str, tuple[Any, ...]] = {
    "nothing but the path": (),
    "dtype": ("<u2",),
    "big-endian": (">u4",),
    "fields": (FIELDS, "r", 6, 40),
    "offset": ("<u2", "r", 6),
    "all in order": ("<f4", "r", 12, (30, 20), "C"),
    "fortran": ("<f4", "r", 12, (30, 20), "F"),
    "fortran, 3-D": ("<f4", "r", 12, (3, 10, 20), "F"),
    "one length": ("<u2", "r", 0, 100),
    "a list of lengths": ("<u2", "r", 0, [10, 10]),
    "an array of one length": ("<u2", "r", 0, np.array(100)),
    "an array of lengths": ("<u2", "r", 0, np.array([10, 10])),
    "a numpy integer": ("<u2", "r", np.int64(4), np.int64(100)),
    "no dimension": ("<u2", "r", 4, ()),
    "spelled out": ("<u2", "readonly"),
    "elements that are arrays": (("<f4", (3, 2)), "r", 0, (20,)),
    "elements that are arrays, fortran": (("<f4", (3, 2)), "r", 0, (20, 5), "F"),
    "all elements that are arrays": (("<u2", (4,)),),
    "across windows": ("<u4", "r", G - 2, (G, 3)),
    "unaligned": ("<u8", "r", 3, 50),
}


@pytest.mark.parametrize("name", MAPS)
def test_memmap_equals_numpys(name: str, world: World) -> None:
    file = world.file(16 * G)
    manager = world.manager(WINDOW)
    got = memmap(file.path, *MAPS[name], manager=manager)
    args = MAPS[name] or (np.uint8,)
    want = np.memmap(file.path, args[0], "r", *(tuple(arg) if isinstance(arg, list) else arg for arg in args[2:]))
    same(got, want)
    assert type(got) is MappedArray
    assert (got.strides, got.flags.writeable) == (want.strides, False)
    assert (got.mode, os.fspath(got.filename)) == (want.mode, os.fspath(want.filename))
    assert PYPY or got.offset == want.offset
    with pytest.raises(ValueError):
        got[...] = 0
    got.flush()
    if not PYPY:
        packed = pickle.dumps(got)
        assert len(packed) - len(str(file.path)) < 300 - 40
        again = pickle.loads(packed)
        assert type(again) is LazyArray
        same(np.asarray(again), want)
        del again
    del got, want
    smmap.default_manager().collect()


def test_memmap_takes_keywords_and_descriptors(world: World) -> None:
    file = world.file(1000)
    manager = world.manager(WINDOW)
    same(
        memmap(str(file.path), dtype="<u2", mode="r", offset=10, shape=(3, 5), order="F", manager=manager),
        np.memmap(file.path, dtype="<u2", mode="r", offset=10, shape=(3, 5), order="F"),
    )
    with open(file.path, "rb") as opened:
        for given in (opened, opened.fileno()):
            array = memmap(given, "<u2", manager=manager)
            same(array, np.frombuffer(file.data, "<u2"))
            assert array.filename is None
    same(array, np.frombuffer(file.data, "<u2"))
    same(memmap(os.fsencode(file.path), manager=manager), np.frombuffer(file.data, "u1"))
    same(memmap(file.path), np.frombuffer(file.data, "u1"))
    smmap.default_manager().collect()


@arrays_are_copies
def test_memmap_says_where_it_lies(world: World) -> None:
    file = world.file(1000)
    array = memmap(file.path, "<u2", "r", 10, (30, 5), manager=world.manager(WINDOW))
    assert (array.filename, array.offset, array.mode) == (str(file.path), 10, "r")
    assert (array[2:].filename, array[2:].offset) == (str(file.path), 10 + 2 * 5 * 2)
    assert (array.copy().filename, array.copy().offset) == (None, None)
    lazy = pickle.loads(pickle.dumps(array[2:]))
    assert (lazy.filename, lazy.offset) == (str(file.path), 30)
    smmap.default_manager().collect()


@pytest.mark.parametrize("mode", ["r+", "w+", "c", "readwrite", "write", "copyonwrite"])
def test_modes_for_writing_are_refused(mode: str, world: World) -> None:
    file = world.file(1000)
    before = os.stat(file.path)
    for call in (
        lambda: memmap(file.path, "u1", mode),
        lambda: load(file.path, mode),
        lambda: load(file.path, mmap_mode=mode),
    ):
        with pytest.raises(ValueError, match="only reads"):
            call()
    assert os.stat(file.path) == before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("<u2", "rb"), 'mode must be "r"'),
        (("<u2", None), 'mode must be "r"'),
        (("<u2", "r", 1), "999 bytes from offset 1 .* multiple of the 2"),
        (("<u2", "r", 1001), "offset 1001 is past its 1000 bytes"),
        (("<u2", "r", -2), "negative"),
        (("<u2", "r", 0, 501), "needs 1002 bytes, the file has 1000"),
        (("<u2", "r", 2, (50, 10)), "needs 1002 bytes, the file has 1000"),
        (("<u2", "r", 0, (1 << 62, 1 << 62)), "bytes, the file has 1000"),
        (("<u2", "r", 0, -1), "shape"),
        (("<u2", "r", 0, (-1, -5)), "shape"),
        (("<u2", "r", 0, 5, "A"), "order"),
        (("O", "r", 0, 5), "objects"),
        (([("a", "O")],), "objects"),
        (("S0",), "no bytes"),
    ],
    ids=str,
)
def test_memmap_refuses_what_the_file_has_not(args: Any, message: str, world: World) -> None:
    file = world.file(1000)
    with pytest.raises(ValueError, match=message):
        memmap(file.path, *args, manager=world.manager(WINDOW))


def test_memmap_of_other_kinds_is_refused(world: World, tmp_path: Path) -> None:
    file = world.file(1000)
    for args in (
        (file.path, "<u2", "r", 1.5),
        (file.path, "<u2", "r", 0, 1.5),
        (file.path, "<u2", "r", 0, ("5",)),
        (None,),
    ):
        with pytest.raises(TypeError):
            memmap(*args)
    with pytest.raises(FileNotFoundError):
        memmap(tmp_path / "missing")
    with pytest.raises(OSError):
        memmap(io.BytesIO(b"abc"))
    same(memmap(world.file(0, "empty").path, "<u2"), np.empty(0, "<u2"))
    same(memmap(file.path, "<u2", "r", 1000), np.empty(0, "<u2"))
    same(memmap(file.path, "<u2", "r", 0, (0, 3), "F"), np.empty((0, 3), "<u2"))


# load with np.load's arguments


def test_load_in_mode_none_reads_into_memory(world: World, tmp_path: Path) -> None:
    manager = world.manager(WINDOW)
    want = np.arange(6000, dtype="<i8").reshape(60, 100)
    np.save(tmp_path / "a.npy", want)
    for array in (load(tmp_path / "a.npy", None, manager=manager), load(tmp_path / "a.npy", mmap_mode=None)):
        assert type(array) is np.ndarray
        same(array, want)
        array[0] = 7
    same(load(tmp_path / "a.npy", "r", False, True, "ASCII", manager=manager), want)
    manager.collect()
    assert LATE or manager.stats().mapped == 0
    smmap.default_manager().collect()


def test_load_unpickles_only_where_it_may(tmp_path: Path) -> None:
    objects = np.array([1, "two", None], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    (tmp_path / "raw").write_bytes(pickle.dumps({"a": 1}))
    assert load(tmp_path / "a.npy", None, True).tolist() == objects.tolist()
    assert load(tmp_path / "raw", allow_pickle=True) == {"a": 1}
    assert load(tmp_path / "raw", None, allow_pickle=True) == {"a": 1}
    for call in (
        lambda: load(tmp_path / "a.npy"),
        lambda: load(tmp_path / "a.npy", allow_pickle=True),  # nor can np.load map it
        lambda: load(tmp_path / "a.npy", None),
        lambda: load(tmp_path / "raw"),
        lambda: load(tmp_path / "raw", None),
    ):
        with pytest.raises(ValueError):
            call()


def test_load_reads_file_objects_as_numpy_does(tmp_path: Path) -> None:
    want = np.arange(600)
    np.save(tmp_path / "a.npy", want)
    same(load(io.BytesIO((tmp_path / "a.npy").read_bytes())), want)
    with open(tmp_path / "a.npy", "rb") as file:
        same(load(file), want)
    with smmap.open(tmp_path / "a.npy") as managed:
        same(load(managed, None), want)
    smmap.default_manager().collect()


def test_load_parses_long_headers_only_if_it_may(world: World, tmp_path: Path) -> None:
    want = np.zeros(3, [(f"a field with quite a long name {number:05}", "u1") for number in range(400)])
    np.save(tmp_path / "a.npy", want)
    np.savez(tmp_path / "a.npz", a=want)
    manager = world.manager(WINDOW)
    for read in (
        lambda **options: load(tmp_path / "a.npy", manager=manager, **options),
        lambda **options: load(tmp_path / "a.npz", manager=manager, **options)["a"],
    ):
        with pytest.raises(ValueError, match=r"max_header_size|too large|long"):
            read()
        assert read(max_header_size=100_000).dtype == want.dtype
        assert read(allow_pickle=True).dtype == want.dtype


def test_length_of_a_header_is_counted_in_characters(world: World, tmp_path: Path) -> None:
    want = np.zeros(3, [(f"字段{number:03}", "u1") for number in range(420)])
    with pytest.warns(UserWarning, match="Stored array in format 3.0"):
        np.save(tmp_path / "a.npy", want)
    size = len(str(want.dtype.descr))
    assert size < 10_000 < len(ascii(want.dtype.descr))
    manager = world.manager(WINDOW)
    assert load(tmp_path / "a.npy", manager=manager).dtype == want.dtype == np.load(tmp_path / "a.npy").dtype
    for read in (np.load, load):
        with pytest.raises(ValueError, match="max_header_size"):
            read(tmp_path / "a.npy", max_header_size=size)


# Archives


@pytest.fixture
def members() -> dict[str, Any]:
    return {
        "first": np.arange(3 * G, dtype="<i4").reshape(-1, 2),
        "fortran": np.asfortranarray(np.arange(600.0).reshape(20, 30)),
        "fields": np.zeros(9, FIELDS),
        "empty": np.empty((0, 3), "<f4"),
        "one": np.array(7, ">u2"),
        "with/slash": np.arange(5),
    }


@pytest.fixture(params=["stored", "compressed", "both"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, members: Any) -> Path:
    path = tmp_path / "a.npz"
    if request.param == "stored":
        np.savez(path, **members)
    elif request.param == "compressed":
        np.savez_compressed(path, **members)
    else:
        with zipfile.ZipFile(path, "w") as out:
            for number, (name, array) in enumerate(members.items()):
                octets = io.BytesIO()
                np.save(octets, array)
                out.writestr(
                    f"{name}.npy", octets.getvalue(), zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
                )
    return path


def test_archive_is_what_numpys_is(archive: Path, members: Any, world: World) -> None:
    manager = world.manager(WINDOW)
    with np.load(archive) as theirs, load(archive, manager=manager) as ours:
        assert type(ours) is MappedNpz
        assert list(ours) == list(ours.keys()) == ours.files == theirs.files
        assert len(ours) == len(theirs)
        for name in ours:
            for got in (
                ours[name],
                ours[f"{name}.npy"],
                ours.get(name),
                dict(ours.items())[name],
                getattr(ours.f, name),
            ):
                same(got, theirs[name])
                same(got, members[name])
                assert got.flags.f_contiguous == theirs[name].flags.f_contiguous
            assert name in ours
            assert f"{name}.npy" in ours
        assert "other" not in ours
        assert 5 not in ours
        assert dir(ours.f) == sorted(theirs.files)
        for call, kind in ((lambda: ours["other"], KeyError), (lambda: ours.f.other, AttributeError)):
            with pytest.raises(kind, match="other"):
                call()
        assert repr(ours) == f"<smmap.numpy.MappedNpz {archive!r} with keys: first, fortran, fields, empty, one, ...>"
        del got
    assert ours.closed
    assert "closed" in repr(ours)


@arrays_are_copies
def test_stored_members_are_mapped_and_compressed_ones_read(archive: Path, members: Any, world: World) -> None:
    manager = world.manager(WINDOW)
    ours = load(archive, manager=manager)
    with zipfile.ZipFile(archive) as directory:
        stored = {info.filename: info.compress_type == zipfile.ZIP_STORED for info in directory.infolist()}
    for name, want in members.items():
        array = ours[name]
        is_mapped = stored[f"{name}.npy"]
        assert type(array) is (MappedArray if is_mapped else np.ndarray)
        assert array.flags.writeable is not is_mapped
        if is_mapped:
            packed = pickle.dumps(array)
            assert len(packed) < 400 + len(str(archive))
            same(np.asarray(pickle.loads(packed)), want)
    first = ours["first"]
    del array
    if stored["first.npy"]:
        manager.collect()
        assert manager.stats().detached == 1
        ours.close()
        manager.close()
        same(first, members["first"])
    smmap.default_manager().collect()


@arrays_are_copies
def test_stored_member_is_the_file_itself(tmp_path: Path, world: World) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(5000), b=np.ones(5000))
    array = load(tmp_path / "a.npz", manager=world.manager(WINDOW))["b"]
    data = (tmp_path / "a.npz").read_bytes()
    place = data.index(np.ones(5000).tobytes())
    assert array.offset == place
    with open(tmp_path / "a.npz", "r+b") as out:
        out.seek(place + 8 * 4000)
        out.write(np.array(5.0).tobytes())
    assert (array[3999], array[4000]) == (1, 5)


def test_archive_in_mode_none_is_read(archive: Path, members: Any, world: World) -> None:
    ours = load(archive, None, manager=world.manager(WINDOW))
    for name, want in members.items():
        assert type(ours[name]) is np.ndarray
        same(ours[name], want)
        ours[name][...] = want
    assert type(pickle.loads(pickle.dumps(ours))["first"]) is np.ndarray
    smmap.default_manager().collect()


def test_archive_pickles_small_and_opens_late(archive: Path, members: Any, tmp_path: Path) -> None:
    ours = load(archive)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        packed = pickle.dumps(ours, protocol)
        assert len(packed) - len(str(archive)) < 300 - 40
        smmap.default_manager().collect()
        before = smmap.default_manager().stats()
        again = pickle.loads(packed)
        assert "not open yet" in repr(again)
        assert smmap.default_manager().stats() == before
        assert not LINUX or maps(tmp_path) == descriptors(tmp_path) == []
        same(again["first"], members["first"])
        assert again.files == ours.files
        smmap.default_manager().collect()
    os.utime(archive, ns=(5, 5))
    again = pickle.loads(packed)
    with pytest.raises(smmap.FileChangedError):
        again["first"]
    ours.close()
    for use in (
        lambda: ours["first"],
        lambda: list(ours),
        lambda: "first" in ours,
        lambda: len(ours),
        lambda: pickle.dumps(ours),
    ):
        with pytest.raises(smmap.ClosedError):
            use()


def test_archive_unpickles_objects_only_where_it_was_trusted(tmp_path: Path) -> None:
    """A pickle of it that somebody made is harmless, whatever the archive is."""
    objects = np.array([1, "two", None], object)
    np.savez(tmp_path / "a.npz", objects=objects, numbers=np.arange(9))
    ours = load(tmp_path / "a.npz", allow_pickle=True)
    assert ours["objects"].tolist() == objects.tolist()
    assert PYPY or type(ours["numbers"]) is MappedArray
    arrived = pickle.loads(pickle.dumps(ours))
    assert arrived["numbers"].tolist() == list(range(9))
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        arrived["objects"]
    with pytest.raises(TypeError):
        MappedNpz(smmap.buffer(tmp_path / "a.npz"), "r", 10_000, True)  # type: ignore[call-arg, unused-ignore]
    with pytest.raises(ValueError, match="encoding"):
        load(tmp_path / "a.npz", encoding="utf-8")
    refusing = load(tmp_path / "a.npz")
    assert refusing["numbers"].tolist() == list(range(9))
    for each in (refusing, load(tmp_path / "a.npz", None)):
        with pytest.raises(ValueError, match=r"[Oo]bject"):
            each["objects"]
    smmap.default_manager().collect()


def test_archive_of_other_things(tmp_path: Path, world: World) -> None:
    manager = world.manager(WINDOW)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as out:
        out.writestr("notes.txt", "some text")
        out.writestr("packed.txt", "x" * 1000, zipfile.ZIP_DEFLATED)
    ours = load(tmp_path / "a.npz", manager=manager)
    assert (ours["notes.txt"], ours["packed.txt"]) == (b"some text", b"x" * 1000)
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    assert dict(load(tmp_path / "empty.npz", manager=manager)) == {}
    np.savez(tmp_path / "b.npz", a=np.arange(9))
    (tmp_path / "c.npz").write_bytes(b"#!/bin/sh\n" + (tmp_path / "b.npz").read_bytes())
    with pytest.raises(ValueError, match=r"c\.npz.* is not a \.npy file"):
        load(tmp_path / "c.npz", manager=manager)
    part = smmap.numpy.MappedNpz(manager.buffer(tmp_path / "c.npz", 10))  # it starts later in its file
    assert part["a"].tolist() == list(range(9))
    with pytest.raises(ValueError, match=r"smmap\.numpy\.load"):
        smmap.numpy.Shards([tmp_path / "b.npz"])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_member_is_named(method: int, tmp_path: Path, world: World) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", method) as out:
        out.writestr("packed", bytes(range(256)) * 9)
    data = bytearray(path.read_bytes())
    for place in range(50, 90, 3):
        data[place] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz'\), member 'packed': ") as caught:
        load(path, manager=world.manager(WINDOW))["packed"]
    assert isinstance(caught.value, zipfile.BadZipFile)


@pytest.mark.parametrize("compressed", [False, True], ids=["stored", "compressed"])
def test_damaged_archive_is_refused(compressed: bool, tmp_path: Path, world: World) -> None:
    """Cut anywhere, and with any byte of its headers changed: an error that names it, or the right array."""
    path = tmp_path / "a.npz"
    want = np.arange(40, dtype="<u2")
    (np.savez_compressed if compressed else np.savez)(path, a=want)
    data = path.read_bytes()
    manager = world.manager(WINDOW)
    damaged = [data[:size] for size in range(0, len(data), 7)]
    damaged += [
        data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
        for place in [*range(60), *range(len(data) - 120, len(data))]
    ]
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            ours = load(path, manager=manager)
            array = ours["a"]
        except KeyError as error:
            assert ours.files != ["a"], error
        except (ValueError, RuntimeError) as error:
            assert str(path) in str(error) or not isinstance(error, ValueError), error
            refused += 1
        else:
            assert array.shape == want.shape
    assert refused > len(damaged) // 3


def test_archive_over_a_descriptor(tmp_path: Path, world: World) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(9))
    with open(tmp_path / "a.npz", "rb") as file:
        ours = load(file.fileno(), manager=world.manager(WINDOW))
    assert ours["a"].tolist() == list(range(9))
    with pytest.raises(TypeError):
        pickle.dumps(ours)


def test_threads_share_an_archive(archive: Path, members: Any, world: World, request: pytest.FixtureRequest) -> None:
    if sys.version_info >= (3, 13):  # before, threads that parse headers at the same moment may get a SystemError
        request.addfinalizer(functools.partial(sys.setswitchinterval, sys.getswitchinterval()))
        sys.setswitchinterval(1e-5)
    again = pickle.loads(pickle.dumps(load(archive, manager=world.manager(WINDOW))))
    right: list[int] = []

    def work(number: int) -> None:
        for _ in range(15):
            for name, want in members.items():
                same(again[name], want)
        right.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(right) == 4
    smmap.default_manager().collect()


def test_tab_completion_shows_what_users_call(world: World) -> None:
    file = world.file(100)
    array: Any = memmap(file.path, manager=world.manager(WINDOW))
    assert set(dir(array)) - set(dir(np.ndarray)) >= {"filename", "flush", "mode", "offset"}
    assert [name for name in set(dir(array)) - set(dir(np.ndarray)) if not name.startswith("_")] != []
    assert sorted(name for name in set(dir(MappedArray)) - set(dir(np.ndarray)) if not name.startswith("_")) == [
        "filename",
        "flush",
        "mode",
        "offset",
    ]
    assert [name for name in dir(MappedNpz) if not name.startswith("_")] == [
        "close",
        "closed",
        "f",
        "files",
        "get",
        "items",
        "keys",
        "values",
    ]
    assert [name for name in dir(smmap.numpy) if not name.startswith("_")] == smmap.numpy.__all__
