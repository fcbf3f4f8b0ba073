"""Times contenders against each other. Knows nothing of what they do, nor how results are shown.

A *row* is one workload with its *contenders*: ours, once for each engine; the *limits* (which a Python program cannot
beat); and *peers*. An *aim* says how much of another contender's time one of ours may take: the fast engine's is a
multiple of the limit, the plain engine's of smmap 5, unless the row says otherwise.

All contenders of a row run in one process, in *rounds*: each round times every contender once, in an order that
rotates, so that other work of the machine affects all of them alike. A contender repeats its *pass* until a round is
long enough to time. The fastest round counts: noise only ever adds.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable

__all__ = [
    "AT_MOST_DEARER",
    "DERIVED",
    "ENGINES",
    "NO_SLOWER",
    "ROWS",
    "SMMAP_5",
    "TWICE_AS_FAST",
    "Aim",
    "Build",
    "Contender",
    "Measured",
    "Result",
    "Row",
    "Settings",
    "Sized",
    "SkippedError",
    "derived",
    "join",
    "loop",
    "measure",
    "once",
    "row",
]

Build = Callable[..., "Sequence[Contender] | Sized"]

ENGINES = ("fast", "plain")
"""The roles, and mostly the names, of our own contenders."""
SMMAP_5 = "smmap 5"
TWICE_AS_FAST = 0.5  # of smmap 5's time: the goal of the plain engine's hits through buffers
NO_SLOWER = 1.1  # a tenth is noise
AT_MOST_DEARER = 2.5  # where smmap 5 skips what a promise needs


class SkippedError(Exception):
    """Raised by the builder of a row that cannot be measured here: says why."""


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    rounds: int = 60
    round_time: float = 0.01
    """Seconds that a round should last, for each contender; a single pass may take longer."""
    budget: float = 0.6
    """Seconds after which a contender that has had three rounds gets no more; a third of that if it has no aim."""
    processes: int = 3
    quick: bool = False
    cpu: bool = False
    """Count the CPU time of this process instead of wall-clock time."""

    def few(self, count: int) -> int:
        """So many operations in a pass, or half of them."""
        return count // 2 if self.quick else count

    def for_curves(self) -> Settings:
        """For points of a curve, which no goal depends on."""
        return replace(self, rounds=min(self.rounds, 15), processes=1)

    def now(self) -> float:
        """The clock, in seconds."""
        return time.process_time() if self.cpu else time.perf_counter()


QUICK = Settings(rounds=20, round_time=0.004, budget=0.12, processes=1, quick=True)


@dataclass
class Contender:
    """One way to do a row's work."""

    name: str
    run: Callable[[int], Any]
    """Does so many passes."""
    results: Callable[[], Iterable[Any]]
    """The results of one pass, to be compared with those of the other contenders."""
    role: str = "peer"
    """An engine's name for ours, otherwise "limit" or "peer". Of several limits the fastest one counts."""
    setup: Callable[[], Any] | None = None
    """What to do before each round, untimed; a round is a single pass then."""
    operations: int = 1
    """In one pass."""


@dataclass
class Measured:
    """A contender's times, in seconds an operation; or another value, as both `least` and `median`."""

    least: float
    median: float
    rounds: int
    role: str
    note: str = ""


@dataclass
class Sized:
    """The result of a row that measures bytes, not time: those of each contender."""

    sizes: dict[str, int]


@dataclass(frozen=True)
class Aim:
    """How much of another contender's time one of ours may take."""

    most: float
    """The multiple; or how many ns more, if `more`; or bytes."""
    against: str = ""
    """The other contender; the fastest limit without one."""
    stretch: float | None = None
    more: bool = False


@dataclass
class Row:
    """One workload. `name` is unique; `subject` is its module's."""

    name: str
    subject: str
    limit: str
    aims: dict[str, Aim]
    build: Build
    parameters: dict[str, Any]
    figure: str = ""
    panel: str = ""
    x: float | None = None
    quick: bool = True
    python: str = ""
    """The interpreter that it needs: "free-threaded", "torch", or "malloc" for this one without Python's own heap."""


@dataclass
class Result:
    """What was measured for one row in one process, or joined from several."""

    name: str
    subject: str
    limit: str
    aims: dict[str, Aim]
    figure: str = ""
    panel: str = ""
    x: float | None = None
    unit: str = "s"
    """What is measured: seconds, bytes ("B"), or factors ("x")."""
    contenders: dict[str, Measured] = field(default_factory=dict)
    judged: dict[str, list[float]] = field(default_factory=dict)
    """For each engine with an aim: the values to judge, one from each process."""
    python: str = ""
    """The interpreter, if it is not the one of the other rows."""
    skipped: str = ""
    failed: bool = False

    @classmethod
    def of(cls, row: Row | DerivedRow, **more: Any) -> Result:
        """An empty one."""
        figure = (row.figure, row.panel, row.x) if isinstance(row, Row) else ("", "", None)
        return cls(row.name, row.subject, row.limit, row.aims, *figure, **more)

    def best(self, role: str) -> float | None:
        """The least time of the contenders with that role."""
        return min((one.least for one in self.contenders.values() if one.role == role), default=None)

    def ratio(self, role: str) -> float | None:
        """Our time with an engine, as a multiple of the limit."""
        ours, limit = self.best(role), self.best("limit")
        return ours / limit if ours and limit else None

    def times_of(self, engine: str, name: str) -> float | None:
        """Our time with an engine, as a multiple of another contender's."""
        ours, other = self.best(engine), self.contenders.get(name)
        return ours / other.least if ours and other is not None and other.rounds else None

    def judge(self) -> Result:
        """Note the values to judge by the aims."""
        for engine, aim in self.aims.items():
            if self.unit == "B":
                value = self.best(engine)
            elif aim.more:
                ours, limit = self.best(engine), self.best("limit")
                value = None if ours is None or limit is None else (ours - limit) * 1e9
            else:
                value = self.times_of(engine, aim.against) if aim.against else self.ratio(engine)
            if value is not None:
                self.judged[engine] = [value]
        return self

    def value(self, engine: str) -> float | None:
        """The value to judge by an engine's aim: the median of the processes."""
        return statistics.median_low(self.judged[engine]) if engine in self.judged else None

    def holds(self, engine: str) -> bool | None:
        """Whether an engine's aim is reached; None without an aim or a measurement."""
        value = self.value(engine)
        return None if value is None else value <= self.aims[engine].most

    def as_json(self) -> dict[str, Any]:
        """For a file, or for the parent process."""
        return {**asdict(self), "holds": {engine: self.holds(engine) for engine in self.aims}}

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Result:
        """The inverse of `as_json`."""
        record = {name: value for name, value in record.items() if name != "holds"}
        record["contenders"] = {name: Measured(**one) for name, one in record["contenders"].items()}
        record["aims"] = {name: Aim(**one) for name, one in record["aims"].items()}
        return cls(**record)


ROWS: list[Row] = []


def aims_of(fast: Aim | float | None, plain: Aim | float | None) -> dict[str, Aim]:
    """The aims of a row. A number is a multiple: the fast engine's of the limit, the plain engine's of smmap 5."""
    aims = {}
    if fast is not None:
        aims["fast"] = fast if isinstance(fast, Aim) else Aim(fast)
    if plain is not None:
        aims["plain"] = plain if isinstance(plain, Aim) else Aim(plain, SMMAP_5)
    return aims


def row(
    name: str,
    *,
    limit: str,
    fast: Aim | float | None = None,
    plain: Aim | float | None = None,
    figure: str = "",
    panel: str = "",
    x: float | None = None,
    quick: bool = True,
    python: str = "",
    **parameters: Any,
) -> Callable[[Build], Build]:
    """Enter a row: the decorated function gives its contenders, for the parameters. May be repeated."""

    def enter(build: Build) -> Build:
        subject = build.__module__.rpartition(".")[2]
        assert all(name != other.name for other in ROWS), name
        # Decorators work upwards: rows of one function go before those that it has.
        place = next((number for number, other in enumerate(ROWS) if other.build is build), len(ROWS))
        ROWS.insert(
            place, Row(name, subject, limit, aims_of(fast, plain), build, parameters, figure, panel, x, quick, python)
        )
        return build

    return enter


Compute = Callable[..., Mapping[str, float]]


@dataclass
class DerivedRow:
    """A row that is computed from others: factors instead of times."""

    name: str
    subject: str
    limit: str
    aims: dict[str, Aim]
    rows: tuple[str, ...]
    compute: Compute

    def of(self, results: Sequence[Result]) -> Result | None:
        """The result, if the rows that it needs were measured."""
        found = {one.name: one for one in results if one.contenders}
        if not all(name in found for name in self.rows):
            return None
        factors = self.compute(*(found[name] for name in self.rows))
        contenders = {name: Measured(value, value, 1, name) for name, value in factors.items()}
        return Result.of(self, unit="x", contenders=contenders).judge()


DERIVED: list[DerivedRow] = []


def derived(
    name: str, *, limit: str, fast: float, plain: Aim | None = None, rows: tuple[str, ...]
) -> Callable[[Compute], Compute]:
    """Enter a row that is computed from the results of others: a factor for "limit", and for each engine."""

    def enter(compute: Compute) -> Compute:
        subject = compute.__module__.rpartition(".")[2]
        DERIVED.append(DerivedRow(name, subject, limit, aims_of(fast, plain), rows, compute))
        return compute

    return enter


_LOOP = """
def make(positions, {names}):
    def run(passes):
        for _ in repeat(None, passes):
            for i in positions:
                x = {expression}

    def results():
        for i in positions:
            yield {expression}

    return run, results
"""


def loop(
    name: str,
    expression: str,
    positions: Sequence[int],
    *,
    role: str = "peer",
    setup: Callable[[], Any] | None = None,
    **names: Any,
) -> Contender:
    """A contender that evaluates an expression of `i` for each position, in a loop that is the same for all.

    Each has its own code: the interpreter adapts code to the types that it meets there, so a loop that contenders
    share would be slow for all of them.
    """
    namespace: dict[str, Any] = {"repeat": itertools.repeat}
    exec(_LOOP.format(names=", ".join(names), expression=expression), namespace)
    run, results = namespace["make"](positions, **names)
    return Contender(name, run, results, role=role, setup=setup, operations=len(positions))


def once(
    name: str,
    work: Callable[[], Any],
    *,
    role: str = "peer",
    results: Callable[[], Iterable[Any]] | None = None,
    setup: Callable[[], Any] | None = None,
    operations: int = 1,
) -> Contender:
    """A contender whose pass is one call of `work`; what it returns is compared, unless `results` says otherwise."""

    def run(passes: int) -> None:
        for _ in itertools.repeat(None, passes):
            work()

    return Contender(name, run, results or (lambda: [work()]), role=role, setup=setup, operations=operations)


def _digest(results: Iterable[Any]) -> int:
    """A checksum of results: bytes-like objects by content, others by their text."""
    checksum = 0
    for result in results:
        if isinstance(result, int):
            result = b"%d," % result
        elif isinstance(result, str):
            result = result.encode()
        checksum = zlib.crc32(result, checksum)
    return checksum


def _timed(contender: Contender, passes: int, now: Callable[[], float]) -> float:
    if contender.setup is not None:
        contender.setup()
        gc.collect()
    start = now()
    contender.run(passes)
    return now() - start


def compare(contenders: Sequence[Contender]) -> dict[str, str]:
    """Check that all contenders get the same data; return notes on peers that do not. Ours and the limits must."""
    notes = {}
    expected = None
    for contender in sorted(contenders, key=lambda one: ("limit", *ENGINES, "peer").index(one.role)):
        if contender.setup is not None:
            contender.setup()
        try:
            digest = _digest(contender.results())
        except Exception as error:
            if contender.role != "peer":
                raise
            notes[contender.name] = f"fails: {type(error).__name__}: {error}"
            continue
        if expected is None:
            expected = digest
        elif digest != expected:
            if contender.role != "peer":
                raise AssertionError(f"{contender.name} gets other data")
            notes[contender.name] = "wrong bytes"
    return notes


def measure(chosen: Row, settings: Settings, only: Collection[str] = ()) -> Result:
    """Build a row, check it, and time it; with `only`, just the named peers."""
    result = Result.of(chosen)
    try:
        built = chosen.build(settings, **chosen.parameters)
    except SkippedError as why:
        result.skipped = str(why)
        return result
    if isinstance(built, Sized):
        result.unit = "B"
        for name, size in built.sizes.items():
            result.contenders[name] = Measured(size, size, 1, name if name in ENGINES else "peer")
        return result.judge()
    needed = {aim.against for aim in chosen.aims.values()}
    if only:
        built = [one for one in built if one.role != "peer" or one.name in only or one.name in needed]
    notes = compare(built)
    contenders = [one for one in built if not notes.get(one.name, "").startswith("fails")]
    passes = {}
    now = settings.now
    for one in contenders:
        passes[one.name] = 1
        if _timed(one, 1, now) < settings.round_time and one.setup is None:
            least = min(_timed(one, 1, now) for _ in range(3))
            passes[one.name] = max(1, round(settings.round_time / least))
            _timed(one, passes[one.name], now)
    times: dict[str, list[float]] = {one.name: [] for one in contenders}
    spent = dict.fromkeys(times, 0.0)
    gc.collect()
    if hasattr(gc, "freeze"):
        gc.freeze()
    gc.disable()
    try:
        for number in range(settings.rounds):
            turn = number % len(contenders)
            for one in contenders[turn:] + contenders[:turn]:
                by_the_way = one.role == "peer" and one.name not in needed
                enough = 3 if not settings.quick else 1 if by_the_way else 2
                if number >= enough and spent[one.name] > (settings.budget / 3 if by_the_way else settings.budget):
                    continue
                took = _timed(one, passes[one.name], now)
                times[one.name].append(took / passes[one.name] / one.operations)
                spent[one.name] += took
    finally:
        gc.enable()
        if hasattr(gc, "unfreeze"):
            gc.unfreeze()
    for one in contenders:
        values = times[one.name]
        result.contenders[one.name] = Measured(
            min(values), statistics.median(values), len(values), one.role, notes.get(one.name, "")
        )
    for name, note in notes.items():
        if name not in result.contenders:
            result.contenders[name] = Measured(0, 0, 0, "peer", note)
    return result.judge()


def join(results: Sequence[Result]) -> Result:
    """One result from those of several processes: the times of the middle one, by the first judged value."""
    first = next((engine for engine in ENGINES if results[0].value(engine) is not None), "")
    order = sorted(results, key=lambda one: one.value(first) or 0) if first else list(results)
    joined = order[(len(order) - 1) // 2]
    joined.judged = {engine: sorted(value for one in order for value in one.judged[engine]) for engine in joined.judged}
    return joined
