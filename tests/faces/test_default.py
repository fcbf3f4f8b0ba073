"""The process's default manager: made late, from `configure` and the environment, once; and anew in a forked child."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import smmap
from core._tools import LATE, G, World, run_python
from smmap import _default
from smmap._sizes import parse_size

HEAD = "import os, sys, smmap\nfrom mmap import ALLOCATIONGRANULARITY as G\n"


def run(script: str, *args: object, env: dict[str, str] | None = None) -> str:
    """What the script prints, in a fresh process with these variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SMMAP_WINDOW_SIZE", "SMMAP_MAX_MEMORY", "SMMAP_MAX_HANDLES", "SMMAP_BACKING"):
            patch.delenv(name, raising=False)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        return run_python(HEAD + script, *args).stdout.strip()


SHOW = """
def show():
    manager = smmap.default_manager()
    print(manager.window_size(), manager.max_mapped_memory_size(), manager.max_file_handles())
"""


def test_it_is_made_late_and_once(world: World) -> None:
    file = world.file(3 * G)
    script = """
from smmap import _default
assert _default._manager is None
assert sys.argv[1:] and "numpy" not in sys.modules
buffer = smmap.buffer(sys.argv[1])
manager = smmap.default_manager()
assert _default._manager is manager is smmap.default_manager()
assert manager.stats().mapped == 0
smmap.open(sys.argv[1]).read()
buffer.view()
assert manager.stats().mapped == 1
try:
    smmap.configure(window_size=G)
except smmap.SmmapError as error:
    print(error)
"""
    assert run(script, file.path) == "the default manager is already in use: call configure() before the first use"


def test_what_goes_before_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a manager that somebody else makes: what is given, then `configure`, then the environment."""
    monkeypatch.setattr(_default, "_settings", {"window_size": 2 * G, "max_memory_size": 8 * G})
    for name, value in {"WINDOW_SIZE": "nonsense", "MAX_MEMORY": str(16 * G), "MAX_HANDLES": "7"}.items():
        monkeypatch.setenv(f"SMMAP_{name}", value)
    wanted = {"window_size": 4 * G, "max_memory_size": 8 * G, "max_open_handles": 7}
    assert _default.settings(window_size=4 * G) == wanted
    monkeypatch.setenv("SMMAP_MAX_HANDLES", "many")
    with pytest.raises(ValueError, match="environment variable SMMAP_MAX_HANDLES: "):
        _default.settings()


def test_configure() -> None:
    script = (
        SHOW
        + """
smmap.configure(window_size=2 * G, max_memory_size=64 * G)
smmap.configure()
smmap.configure(max_open_handles=7, window_size=4 * G)
for wrong in (dict(window_size=-2), dict(max_open_handles=0), dict(backing="tape"), dict(max_memory_size="64Q"),
              dict(window=5)):
    try:
        smmap.configure(**wrong, **({} if "max_memory_size" in wrong else dict(max_memory_size=1)))
    except (ValueError, TypeError) as error:
        assert str(error)
    else:
        raise AssertionError(wrong)
assert smmap._default._manager is None
show()
"""
    )
    assert run(script) == f"{4 * G} {64 * G} 7"


def test_environment() -> None:
    env = {"SMMAP_WINDOW_SIZE": "1M", "SMMAP_MAX_MEMORY": " 64MiB", "SMMAP_MAX_HANDLES": "256"}
    assert run(SHOW + "show()", env=env) == f"{1 << 20} {64 << 20} 256"
    script = "smmap.configure(max_open_handles=5, window_size=2 << 20)\n" + SHOW + "show()"
    assert run(script, env=env) == f"{2 << 20} {64 << 20} 5"  # configure goes first
    env = {"SMMAP_WINDOW_SIZE": "", "SMMAP_MAX_MEMORY": "512K"}
    assert run(SHOW + "show()", env=env).split()[:2] == [str(64 << 10), str(512 << 10)]


def test_configure_goes_before_a_wrong_environment() -> None:
    env = {"SMMAP_WINDOW_SIZE": "1M", "SMMAP_MAX_MEMORY": "lots", "SMMAP_MAX_HANDLES": "0"}
    script = "smmap.configure(max_open_handles=5, max_memory_size=64 << 20)\n" + SHOW + "show()"
    assert run(script, env=env) == f"{1 << 20} {64 << 20} 5"
    script = """
smmap.configure(max_open_handles=5)
try:
    smmap.default_manager()
except ValueError as error:
    print(error)
"""
    assert run(script, env=env).startswith("environment variable SMMAP_MAX_MEMORY: 'lots' is not a size")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SMMAP_WINDOW_SIZE", "-1"),
        ("SMMAP_WINDOW_SIZE", "1.5M"),
        ("SMMAP_MAX_MEMORY", "lots"),
        ("SMMAP_MAX_MEMORY", "64 Q"),
        ("SMMAP_MAX_HANDLES", "0"),
        ("SMMAP_MAX_HANDLES", "0x10"),
        ("SMMAP_BACKING", "tape"),
        ("SMMAP_BACKING", "64K"),
    ],
)
def test_wrong_environment(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told at the first use, and names the variable; importing works."""
    monkeypatch.setenv(name, text)
    monkeypatch.setattr(_default, "_manager", None)
    for _ in range(2):
        with pytest.raises(ValueError, match=name):
            smmap.default_manager()
    with pytest.raises(ValueError, match=name):
        smmap.buffer(__file__)
    monkeypatch.setenv(name, "read" if name == "SMMAP_BACKING" else "64K")
    assert smmap.default_manager().stats().mapped == 0


def test_backing_from_the_environment(world: World) -> None:
    file = world.file(9 * G)
    script = """
from pathlib import Path
buffer = smmap.buffer(sys.argv[1])
view = buffer.view()
assert view == Path(sys.argv[1]).read_bytes()
paths = Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
print(smmap.default_manager().window_size(), sys.argv[1] in paths)
"""
    assert run(script, file.path, env={"SMMAP_BACKING": " read"}) == f"{8 << 20} False"
    script = "smmap.configure(backing='mmap')\n" + script
    window, mapped = run(script, file.path, env={"SMMAP_BACKING": "read"}).split()
    assert int(window) > 8 << 20
    assert mapped == str(sys.platform == "linux")


def test_configure_takes_sizes_as_text() -> None:
    script = "smmap.configure(max_memory_size='64M', window_size='1MiB', max_open_handles='1K')\n" + SHOW + "show()"
    assert run(script) == f"{1 << 20} {64 << 20} 1024"


@pytest.mark.parametrize("cls", [smmap.SlidingWindowMapManager, smmap.StaticWindowMapManager])
def test_manager_takes_sizes_as_text(cls: Any) -> None:
    ours, theirs = cls("1M", "64M", "100"), cls(1 << 20, 64 << 20, 100)
    assert ours.stats() == theirs.stats()
    assert cls(max_memory_size=" 1gib ").max_mapped_memory_size() == 1 << 30
    assert cls("0", backing="read").window_size() == 0


@pytest.mark.parametrize("name", ["window_size", "max_memory_size", "max_open_handles"])
@pytest.mark.parametrize(
    ("value", "kind"),
    [("64Q", ValueError), ("-1", ValueError), ("", ValueError), (b"64M", TypeError), (1.5, TypeError)],
)
def test_wrong_size_is_refused_by_name(
    name: str, value: Any, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_default, "_manager", None)
    for make in (smmap.SlidingWindowMapManager, smmap.configure):
        with pytest.raises(kind, match=f"{name}.*64M"):
            make(**{name: value})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("64k", 64 << 10),
        ("64KB", 64 << 10),
        ("1MiB", 1 << 20),
        ("3G", 3 << 30),
        (" 2tib ", 2 << 40),
        ("1P", 1 << 50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", " ", "K", "1KK", "1BK", "1IB", "1KI", "1 K", "-1", "+1", "1.5K", "1e3", "0x10", "\u0663", "1_000"]
)
def test_not_a_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        parse_size(text)


def test_threads_make_one() -> None:
    script = """
import threading, time
from smmap import _default
made = []
class Slow(smmap.SlidingWindowMapManager):
    def __init__(self, *args, **kwargs):
        made.append(threading.get_ident())
        time.sleep(0.2)  # so that all others have seen that there is none
        super().__init__(*args, **kwargs)
_default.SlidingWindowMapManager = Slow
sys.setswitchinterval(1e-6)
found = []
gate = threading.Barrier(8)
def work():
    gate.wait()
    found.append(smmap.default_manager())
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 8 and len(set(map(id, found))) == 1 and len(made) == 1
"""
    run(script)


def test_once_closed_the_next_is_another(world: World) -> None:
    file = world.file(3 * G)
    script = """
first = smmap.default_manager()
buffer = smmap.buffer(sys.argv[1])
first.close()
try:
    buffer[0]
except smmap.ClosedError:
    pass
else:
    raise AssertionError
smmap.configure(max_open_handles=9)
second = smmap.default_manager()
assert second is not first and second.max_file_handles() == 9
print(smmap.buffer(sys.argv[1])[0])
"""
    assert run(script, file.path) == str(file.data[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_its_own(world: World) -> None:
    """Also when another thread of the parent's is making it at that moment; settings are kept."""
    file = world.file(3 * G)
    script = """
import threading, time
from smmap import _default
smmap.configure(max_open_handles=11)
data = open(sys.argv[1], "rb").read()
started, made = threading.Event(), threading.Event()
def make():
    started.set()
    made.wait(30)
making = threading.Thread(target=_default._lock.run, args=(make,))  # as one that makes the manager
making.start()
started.wait(30)
def child(expected):
    fresh = _default._manager is None
    manager = smmap.default_manager()
    read = smmap.buffer(sys.argv[1])[:] == data
    os._exit(0 if fresh and read and manager is not expected and manager.max_file_handles() == 11 else 1)
def fork(expected):
    pid = os.fork()
    if not pid:
        child(expected)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
thread = threading.Thread(target=lambda: found.append(fork(None)))
found = []
thread.start()
time.sleep(0.1)
made.set()
thread.join()
making.join()
buffer = smmap.buffer(sys.argv[1])
assert buffer.view() == data
found.append(fork(smmap.default_manager()))
pid = os.fork()
if not pid:  # what was made before the fork goes on, on the copy of its own manager
    os._exit(0 if buffer[G:] == data[G:] else 1)
found.append(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))
print(found, smmap.default_manager().stats().mapped)
"""
    options = ("-W", "ignore::DeprecationWarning")  # of forking while there are threads
    done = run_python(HEAD + script, file.path, options=options)
    assert done.stdout.strip() == f"[0, 0, 0] {1}"
    assert LATE or done.stderr == ""


def test_what_is_no_manager(tmp_path: Path) -> None:
    """Told at once, not at the first read."""
    (tmp_path / "a.bin").write_bytes(b"abcd")
    for wrong in (3, "x", smmap.StaticWindowMapManager, False):
        for make in (smmap.buffer, smmap.open):
            with pytest.raises(TypeError, match="manager must be"):
                make(tmp_path / "a.bin", manager=wrong)


def test_child_has_a_default_manager_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs after a fork, run by hand."""
    monkeypatch.setattr(_default, "_manager", None)
    monkeypatch.setattr(_default, "_lock", _default._lock)
    mine = smmap.default_manager()
    assert smmap.default_manager() is mine
    _default._after_fork_in_child()
    other = smmap.default_manager()
    assert other is not mine
    mine.close()
    other.close()
