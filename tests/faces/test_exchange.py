"""Buffers and lazy arrays as other libraries take them: numpy, pandas, torch, by the array protocols and by DLPack."""

from __future__ import annotations

import gc
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import LATE, G, World, run_python

np: Any = pytest.importorskip("numpy")

import smmap.numpy  # noqa: E402

PYPY = sys.implementation.name == "pypy"
MARKS_READ_ONLY = np.lib.NumpyVersion(np.__version__) >= "2.1.0"
WINDOW = 2 * G
READ_ONLY = "ignore:The given NumPy array is not writable"


def address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def pandas_values(buffer: Any) -> Any:
    return pytest.importorskip("pandas").Series(buffer).to_numpy()


def torch_values(name: str) -> Callable[[Any], Any]:
    return lambda thing: getattr(pytest.importorskip("torch"), name)(thing).numpy()


TAKERS: dict[str, Callable[[Any], Any]] = {
    "numpy.asarray": np.asarray,
    "numpy.array": np.array,
    "numpy.from_dlpack": np.from_dlpack,
    "pandas.Series": pandas_values,
    "torch.tensor": torch_values("tensor"),
    "torch.as_tensor": torch_values("as_tensor"),
    "torch.asarray": torch_values("asarray"),
    "torch.from_dlpack": torch_values("from_dlpack"),
}
COPIES = {"numpy.array", "torch.tensor"}
ON_DLPACK = {"numpy.from_dlpack"} if not MARKS_READ_ONLY else set()  # a copy, as the consumer must not write to a map


# Buffers


@pytest.mark.parametrize("size", [1, 100, 3 * G + 5])
@pytest.mark.parametrize("taker", TAKERS)
def test_buffer_is_taken_as_bytes_without_a_copy(taker: str, size: int, world: World) -> None:
    file = world.file(5 * G + 100)
    manager = world.manager(WINDOW)
    buffer = manager.buffer(file.path, 7, size)
    found = TAKERS[taker](buffer)
    assert (found.dtype, found.shape) == (np.uint8, (size,))
    assert found.tobytes() == file.data[7 : 7 + size]
    if not PYPY and taker not in COPIES | ON_DLPACK:
        assert address(found) == address(np.frombuffer(buffer.view(), "u1"))


@pytest.mark.parametrize("taker", TAKERS)
def test_buffer_may_be_closed_and_evicted_while_it_is_an_array(taker: str, world: World) -> None:
    """The array keeps the memory, not the buffer."""
    file = world.file(5 * G)
    manager = world.manager(WINDOW)
    buffer = manager.buffer(file.path)
    found = TAKERS[taker](buffer)
    buffer.close()
    del buffer
    manager.close()
    file.path.unlink()
    gc.collect()
    assert found.tobytes() == file.data
    if not PYPY and taker not in COPIES | ON_DLPACK:
        assert manager.stats().detached == 1
    del found
    gc.collect()
    assert LATE or PYPY or manager.stats().mapped == 0


@pytest.mark.parametrize("taker", ["numpy.asarray", "numpy.from_dlpack", "pandas.Series"])
def test_array_of_a_buffer_is_read_only(taker: str, world: World) -> None:
    found = TAKERS[taker](world.manager(WINDOW).buffer(world.file(100).path))
    assert not found.flags.writeable
    with pytest.raises(ValueError):
        found[0] = 1
    if taker == "numpy.asarray":
        with pytest.raises(ValueError):
            found.flags.writeable = True


@pytest.mark.parametrize("taker", [taker for taker in TAKERS if taker != "pandas.Series"])  # of objects if it is empty
def test_empty_buffer_is_an_empty_array(taker: str, world: World) -> None:
    found = TAKERS[taker](world.manager(WINDOW).buffer(world.file(0).path))
    assert (found.dtype, found.shape) == (np.uint8, (0,))


@pytest.mark.parametrize("taker", TAKERS)
def test_buffer_that_came_by_a_pickle_is_opened_for_it(taker: str, world: World) -> None:
    file = world.file(3 * G)
    buffer = pickle.loads(pickle.dumps(world.manager(WINDOW).buffer(file.path)))
    assert TAKERS[taker](buffer).tobytes() == file.data
    del buffer
    smmap.default_manager().collect()


def test_array_of_a_buffer_is_never_longer_than_its_memory(world: World) -> None:
    """Also where another thread gives the buffer a shorter file in this moment: numpy believes what it is told."""
    if not hasattr(smmap.SlidingWindowMapBuffer, "__array_interface__"):
        pytest.skip("numpy takes the buffer protocol, which has one record for start and length")
    manager = world.manager(WINDOW)
    short = world.file(10, "short")

    class Raced(smmap.SlidingWindowMapBuffer):
        def view(self, *args: Any) -> memoryview:
            self.begin_access(manager.make_cursor(short.path))
            return super().view(*args)

    found = np.asarray(Raced(manager.make_cursor(world.file(3 * G).path)))
    assert found.tobytes() == short.data


def test_converted_array_of_a_buffer_is_a_copy(world: World) -> None:
    file = world.file(100)
    buffer = world.manager(WINDOW).buffer(file.path)
    assert np.asarray(buffer, "u2").tolist() == list(file.data)
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":  # before, False meant: only if it must
        with pytest.raises(ValueError):
            buffer.__array__(np.dtype("u2"), copy=False)


def test_array_interface_needs_no_numpy(world: World) -> None:
    """Before Python 3.12 the plain engine has no buffer protocol: its buffers say where a view is instead."""
    file = world.file(3 * G)
    script = """
import sys, smmap
buffer = smmap.buffer(sys.argv[1])
interface = getattr(buffer, "__array_interface__", None)
print("numpy" in sys.modules, interface is None or (interface["typestr"], interface["shape"], bytes(interface["data"])
      == buffer[:], interface["data"].readonly))
"""
    first, _, rest = run_python(script, file.path).stdout.strip().partition(" ")
    assert first == "False"
    assert rest in ("True", f"('|u1', ({3 * G},), True, True)")
    try:
        memoryview(smmap.buffer(file.path)).release()
    except TypeError:
        assert rest != "True"
    else:
        assert rest == "True"  # one way is enough
    smmap.default_manager().collect()


def test_buffer_without_numpy_says_what_dlpack_needs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = world.manager(WINDOW).buffer(world.file(10).path)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ModuleNotFoundError, match="needs numpy for DLPack: pip install numpy") as caught:
        buffer.__dlpack__()
    assert caught.value.name == "numpy"


# DLPack


def test_dlpack_of_a_closed_buffer_is_refused(world: World) -> None:
    buffer = world.manager(WINDOW).buffer(world.file(10).path)
    buffer.close()
    assert buffer.__dlpack_device__() == (1, 0)
    for options in ({}, {"copy": False}, {"max_version": (1, 0)}):
        with pytest.raises((smmap.ClosedError, BufferError)):
            buffer.__dlpack__(**options)


def test_dlpack_before_version_1_is_a_copy(world: World) -> None:
    """Its consumer cannot be told that it must not write."""
    file = world.file(3 * G)
    manager = world.manager(WINDOW)
    buffer = manager.buffer(file.path)

    class Old:
        def __dlpack_device__(self) -> Any:
            return buffer.__dlpack_device__()

        def __dlpack__(self, **_options: Any) -> Any:
            return buffer.__dlpack__()

    found = np.from_dlpack(Old())
    assert found.tobytes() == file.data
    assert manager.stats().detached == 0
    manager.collect()
    assert LATE or PYPY or manager.stats().mapped == 0
    with pytest.raises(BufferError, match="read-only"):
        buffer.__dlpack__(copy=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stream": 1}, "stream"), ({"dl_device": (2, 0)}, "CPU"), ({"dl_device": (1, 1)}, "CPU")],
    ids=["stream", "other device", "other CPU"],
)
def test_dlpack_elsewhere_is_refused(options: Any, message: str, world: World) -> None:
    buffer = world.manager(WINDOW).buffer(world.file(10).path)
    with pytest.raises(BufferError, match=message):
        buffer.__dlpack__(max_version=(1, 0), **options)
    assert buffer.__dlpack__(max_version=(1, 0), dl_device=(1, 0), copy=True) is not None


# Lazy arrays


@pytest.fixture
def arrived(tmp_path: Path) -> Callable[[Any], Any]:
    """What an array becomes that is saved, loaded, pickled and unpickled; none of it is open yet."""
    if PYPY:
        pytest.skip("numpy on PyPy: arrays are copies")

    def through(array: Any, view: Callable[[Any], Any] = lambda it: it) -> Any:
        np.save(tmp_path / "a.npy", array)
        return pickle.loads(pickle.dumps(view(smmap.numpy.load(tmp_path / "a.npy"))))

    return through


LIBRARIES = [name for name in TAKERS if name != "pandas.Series"]
VIEWS: dict[str, Callable[[Any], Any]] = {
    "all": lambda it: it,
    "rows": lambda it: it[3:50],
    "row": lambda it: it[7],
    "every third": lambda it: it[::3, ::2],
    "transposed": lambda it: it.T,
    "backwards": lambda it: it[::-1, ::-3],
    "nothing": lambda it: it[5:5],
    "one": lambda it: it[3:4, 5:6],
    "half an element aside": lambda it: it.reshape(-1).view("u1")[2:-6].view("<i8"),
}


@pytest.mark.filterwarnings(READ_ONLY)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("taker", LIBRARIES)
def test_lazy_array_is_taken_as_the_array_is(taker: str, view: str, arrived: Any) -> None:
    want = np.arange(60 * 50, dtype="<i8").reshape(60, 50) * 7919
    lazy = arrived(want, VIEWS[view])
    assert type(lazy) is smmap.numpy.LazyArray
    found = TAKERS[taker](lazy)
    want = VIEWS[view](want)
    assert (found.dtype, found.shape) == (want.dtype, want.shape)
    assert found.tobytes() == want.tobytes()
    if view in ("all", "rows", "row", "every third", "transposed") and taker not in COPIES | ON_DLPACK:
        assert address(found) == address(np.asarray(lazy))
    del lazy
    smmap.default_manager().collect()
    assert np.asarray(found).tobytes() == want.tobytes()
    del found
    smmap.default_manager().collect()
    assert smmap.default_manager().stats().mapped == 0


@pytest.mark.parametrize("dtype", ["<f4", ">f8", ">u2", "?", "<c16", "u1", "<f2", "<u8"])
@pytest.mark.parametrize("taker", LIBRARIES)
def test_lazy_array_of_any_dtype(taker: str, dtype: str, arrived: Any) -> None:
    if dtype == "?" and taker == "numpy.from_dlpack" and np.lib.NumpyVersion(np.__version__) < "1.25.0":
        pytest.skip("this numpy has no truth values in DLPack")
    want = (np.arange(6000) % 251).astype(dtype).reshape(100, 60)
    found = TAKERS[taker](arrived(want))
    assert found.dtype == want.dtype.newbyteorder("=") or taker in ("numpy.asarray", "numpy.array")
    assert (found == want).all()


def test_lazy_array_of_fields_keeps_them(arrived: Any) -> None:
    """`__array_interface__` tells less of a dtype than there is to say."""
    for dtype in (
        np.dtype([("a", "u1"), ("b", "<f8")], align=True),
        np.dtype([(("the title", "a"), "<i2"), (("another", "b"), "<f8")]),
    ):
        lazy = arrived(np.zeros((40, dtype.itemsize), "u1"), lambda it: it.view(dtype))
        assert not hasattr(lazy, "__array_interface__")
        found = np.asarray(lazy).dtype
        assert (found, found.isalignedstruct, dict(found.fields)) == (dtype, dtype.isalignedstruct, dict(dtype.fields))
        with pytest.raises(BufferError, match="one field"):
            lazy.__dlpack__(max_version=(1, 0))


@pytest.mark.parametrize("dtype", ["<M8[s]", "S5", "<U3"])
def test_lazy_array_of_what_dlpack_has_not(dtype: str, arrived: Any) -> None:
    want = np.arange(600).astype(dtype)
    lazy = arrived(want)
    assert (np.asarray(lazy) == want).all()
    for options in ({}, {"max_version": (1, 0)}):
        with pytest.raises(BufferError):
            lazy.__dlpack__(**options)


def test_lazy_array_by_dlpack_is_read_only(arrived: Any) -> None:
    assert not np.from_dlpack(arrived(np.arange(6000.0))).flags.writeable
    lazy = arrived(np.arange(6000.0), lambda it: it[::-1])
    with pytest.raises(BufferError, match="strides" if MARKS_READ_ONLY else "read-only"):
        lazy.__dlpack__(max_version=(1, 0), copy=False)


def test_lazy_array_goes_to_torch_at_once(arrived: Any) -> None:
    """Not element by element: that would ask for each row."""
    torch = pytest.importorskip("torch")
    want = np.arange(100_000 * 8, dtype="<f4").reshape(-1, 8)
    lazy = arrived(want)
    asked: list[Any] = []

    class Watched(smmap.numpy.LazyArray):
        def __getitem__(self, key: Any) -> Any:
            asked.append(key)
            return super().__getitem__(key)  # type: ignore[misc]

    lazy.__class__ = Watched
    assert torch.equal(torch.as_tensor(lazy), torch.from_numpy(want))
    assert asked == []


def test_lazy_array_of_a_changed_file_is_refused(arrived: Any, tmp_path: Path) -> None:
    lazy = arrived(np.arange(6000.0))
    np.save(tmp_path / "a.npy", np.arange(6001.0))
    for use in (np.asarray, np.from_dlpack, lambda it: it.__array_interface__):
        with pytest.raises(smmap.FileChangedError):
            use(lazy)
