"""Times contenders against each other. Knows nothing of what they do, nor how results are shown.

A *row* is one workload with its *contenders*: ours, the *limits* (what a Python program cannot beat), and *peers*. Its
goal says how much of the limit's time ours may take, or, with `against`, of that peer's.

All of a row run in one process, in *rounds*: each round times every contender once, in an order that rotates, so that
what else the machine does meets all of them alike. A contender repeats its *pass* as often as makes a round worth
timing. The least time of any round counts: noise only ever adds.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable

__all__ = [
    "AT_MOST_DEARER",
    "DERIVED",
    "NO_SLOWER",
    "ROWS",
    "SMMAP_5",
    "TWICE_AS_FAST",
    "Build",
    "Contender",
    "Derived",
    "Measured",
    "Result",
    "Row",
    "Settings",
    "Sized",
    "derived",
    "join",
    "loop",
    "measure",
    "once",
    "row",
]

Build = Callable[..., "Sequence[Contender] | Sized"]

SMMAP_5 = "smmap 5"
TWICE_AS_FAST = 0.5  # as smmap 5: what hits through buffers have to be
NO_SLOWER = 1.1  # a tenth is noise
AT_MOST_DEARER = 2.5  # where smmap 5 leaves out what a promise needs


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    rounds: int = 60
    round_time: float = 0.01
    """Seconds that a round should last, for each contender; a single pass may take longer."""
    budget: float = 4.0
    """Seconds after which a contender that has had three rounds gets no more."""
    processes: int = 3
    quick: bool = False
    cpu: bool = False
    """Count the time that this process ran, instead of what the clock on the wall says."""

    def few(self, count: int) -> int:
        """That many operations in a pass, or half of them."""
        return count // 2 if self.quick else count

    def for_curves(self) -> Settings:
        """For points of a curve, which no goal depends on."""
        return replace(self, rounds=min(self.rounds, 15), budget=self.budget / 4, processes=1)

    def now(self) -> float:
        """The clock, in seconds."""
        return time.process_time() if self.cpu else time.perf_counter()


QUICK = Settings(rounds=20, round_time=0.004, budget=0.15, processes=1, quick=True)


@dataclass
class Contender:
    """One way to do a row's work."""

    name: str
    run: Callable[[int], Any]
    """Does so many passes."""
    results: Callable[[], Iterable[Any]]
    """What one pass gets, to be compared with the other contenders'."""
    role: str = "peer"
    """"ours", "limit" or "peer". Of several limits the fastest counts."""
    setup: Callable[[], Any] | None = None
    """What to do before each round, untimed; a round is a single pass then."""
    operations: int = 1
    """In one pass."""


@dataclass
class Measured:
    """A contender's times, in seconds an operation."""

    least: float
    median: float
    rounds: int
    role: str
    note: str = ""


@dataclass
class Sized:
    """What a row gives that measures bytes, not time."""

    sizes: dict[str, int]


@dataclass
class Derived:
    """What a row gives that is computed from others: growths, for instance, in place of times."""

    limit: float
    ours: float


@dataclass
class Row:
    """One workload. `name` is unique; `subject` is its module's."""

    name: str
    subject: str
    limit: str
    goal: float | None
    build: Build
    parameters: dict[str, Any]
    figure: str = ""
    panel: str = ""
    x: float | None = None
    stretch: float | None = None
    against: str = ""
    """The peer that the goal is a multiple of; the limit without one."""
    quick: bool = True
    free_threaded: bool = False


@dataclass
class Result:
    """What was measured for one row in one process, or joined from several."""

    name: str
    subject: str
    limit: str
    goal: float | None
    stretch: float | None = None
    against: str = ""
    figure: str = ""
    panel: str = ""
    x: float | None = None
    contenders: dict[str, Measured] = field(default_factory=dict)
    ratio: float | None = None
    ratios: list[float] = field(default_factory=list)
    """What is judged, of each process."""
    size: int | None = None
    factors: tuple[float, float] | None = None
    """The limit's and ours, where factors are compared instead of times."""
    skipped: str = ""
    failed: bool = False

    @property
    def judged(self) -> float | None:
        """What the goal is for: the ratio to the peer that it names, else to the limit, else a size."""
        if self.size is not None:
            return self.size
        if not self.against:
            return self.ratio
        peer, ours = self.contenders.get(self.against), self.best("ours")
        return ours / peer.least if peer is not None and peer.rounds and ours else None

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None without a goal or a measurement."""
        value = self.judged
        return None if self.goal is None or value is None else value <= self.goal

    def best(self, role: str) -> float | None:
        """The least time of the contenders with that role."""
        return min((one.least for one in self.contenders.values() if one.role == role), default=None)

    def as_json(self) -> dict[str, Any]:
        """For a file, or for the parent process."""
        return {**asdict(self), "holds": self.holds}

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> Result:
        """The inverse of `as_json`."""
        record = {name: value for name, value in record.items() if name != "holds"}
        record["contenders"] = {name: Measured(**one) for name, one in record["contenders"].items()}
        return cls(**record)


ROWS: list[Row] = []


def row(
    name: str,
    *,
    limit: str,
    goal: float | None = None,
    stretch: float | None = None,
    against: str = "",
    figure: str = "",
    panel: str = "",
    x: float | None = None,
    quick: bool = True,
    free_threaded: bool = False,
    **parameters: Any,
) -> Callable[[Build], Build]:
    """Enter a row: the decorated function gives its contenders, for the parameters. May be repeated."""

    def enter(build: Build) -> Build:
        subject = build.__module__.rpartition(".")[2]
        assert all(name != other.name for other in ROWS), name
        # Decorators work upwards: rows of one function go before those that it has.
        place = next((number for number, other in enumerate(ROWS) if other.build is build), len(ROWS))
        ROWS.insert(
            place,
            Row(
                name=name,
                subject=subject,
                limit=limit,
                goal=goal,
                build=build,
                parameters=parameters,
                figure=figure,
                panel=panel,
                x=x,
                stretch=stretch,
                against=against if goal else "",
                quick=quick,
                free_threaded=free_threaded,
            ),
        )
        return build

    return enter


@dataclass
class DerivedRow:
    """A row that is computed from others."""

    name: str
    subject: str
    limit: str
    goal: float
    rows: tuple[str, ...]
    compute: Callable[..., Derived]

    def of(self, results: Sequence[Result]) -> Result | None:
        """The result, if the rows that it needs were measured."""
        found = {one.name: one for one in results if one.contenders}
        if not all(name in found for name in self.rows):
            return None
        got = self.compute(*(found[name] for name in self.rows))
        ratio = got.ours / got.limit
        return Result(
            self.name, self.subject, self.limit, self.goal, ratio=ratio, ratios=[ratio], factors=(got.limit, got.ours)
        )


DERIVED: list[DerivedRow] = []


def derived(
    name: str, *, limit: str, goal: float, rows: tuple[str, ...]
) -> Callable[[Callable[..., Derived]], Callable[..., Derived]]:
    """Enter a row that is computed from the results of others."""

    def enter(compute: Callable[..., Derived]) -> Callable[..., Derived]:
        DERIVED.append(DerivedRow(name, compute.__module__.rpartition(".")[2], limit, goal, rows, compute))
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

    Each has code of its own: the interpreter adapts code to the types that it meets there, so that a loop shared by
    contenders would be slow for all of them.
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
    """A checksum of results: bytes-like things by content, all else by its text."""
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
    """Check that all get the same data; notes on those which do not. Ours and the limits must."""
    notes = {}
    expected = None
    for contender in sorted(contenders, key=lambda one: {"limit": 0, "ours": 1}.get(one.role, 2)):
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
    """Build a row, check it, time it; with `only`, of the peers those named."""
    result = Result(
        chosen.name,
        chosen.subject,
        chosen.limit,
        chosen.goal,
        chosen.stretch,
        chosen.against,
        chosen.figure,
        chosen.panel,
        chosen.x,
    )
    built = chosen.build(settings, **chosen.parameters)
    if isinstance(built, Sized):
        result.size = sum(built.sizes.values())
        result.limit = " + ".join(f"{name} {size}" for name, size in built.sizes.items())
        return result
    if only:
        built = [one for one in built if one.role != "peer" or one.name in only or one.name == chosen.against]
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
    gc.freeze()
    gc.disable()
    try:
        for number in range(settings.rounds):
            turn = number % len(contenders)
            for one in contenders[turn:] + contenders[:turn]:
                by_the_way = one.role == "peer" and one.name != chosen.against
                enough = 3 if not settings.quick else 1 if by_the_way else 2
                if number >= enough and spent[one.name] > settings.budget:
                    continue
                start = time.perf_counter()
                times[one.name].append(_timed(one, passes[one.name], now) / passes[one.name] / one.operations)
                spent[one.name] += time.perf_counter() - start
    finally:
        gc.enable()
        gc.unfreeze()
    for one in contenders:
        values = times[one.name]
        result.contenders[one.name] = Measured(
            min(values), statistics.median(values), len(values), one.role, notes.get(one.name, "")
        )
    for name, note in notes.items():
        if name not in result.contenders:
            result.contenders[name] = Measured(0, 0, 0, "peer", note)
    limit, ours = result.best("limit"), result.best("ours")
    if limit and ours:
        result.ratio = ours / limit
    if result.judged:
        result.ratios = [result.judged]
    return result


def join(results: Sequence[Result]) -> Result:
    """One result of those that several processes gave: the one whose judged ratio is the median of theirs."""
    order = sorted(results, key=lambda one: one.judged or 0)
    joined = order[(len(order) - 1) // 2]
    joined.ratios = [one.judged for one in order if one.judged is not None]
    return joined
