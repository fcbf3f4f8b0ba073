"""Makes mutants of the policy and the plain engine with cosmic-ray, on the changed lines: `make mutation`.

    python tools/mutation.py --since COMMIT     in all lines that differ from that commit (HEAD~1)
    python tools/mutation.py --all              in all lines
    python tools/mutation.py --sample 200       200 of them at random; --seed repeats a choice
    python tools/mutation.py --module _cache.py _engine/plain.py    only in these modules
    python tools/mutation.py --slow             also run the slow tests
    python tools/mutation.py --list             only show the changes

The tests first run without a mutant, to measure how long each takes and which functions it calls. Then each mutant runs
in a fork of that process, with the tests that call the changed function: those of its module first, the fastest first,
for `--budget` seconds. So a mutant takes seconds, without a start of pytest. Only functions are changed. Needs CPython
3.11 and `fork`.

A mutant that survives is printed as a diff. Either a new test has to kill it, or its line is not needed, or it changes
nothing that anyone could notice here, such as a line for another system, or the size of a step. The mutants in
`tools/mutants.py` were written by hand: each breaks one promise.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import cosmic_ray.plugins
import pytest
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from parso.python.tree import Keyword

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/smmap")

# The modules, and the tests that cover each best.
MODULES = {
    "_manager.py": "core/contract core/files core/errors core/eviction core/limits",
    "_opening.py": "core/contract core/files core/errors core/limits",
    "_cache.py": "core/eviction core/limits core/errors core/ledger core/log",
    "_growth.py": "core/refresh",
    "_files.py": "core/files core/refresh core/overlay core/errors",
    "_rents.py": "core/rents",
    "_window.py": "core/window engine/windows",
    "_lock.py": "core/locks",
    "_engine/plain.py": "engine/descriptors core/errors",
    "_engine/plain_regions.py": "engine/regions engine/table_and_order engine/ledger",
    "_engine/plain_clients.py": "engine/buffers core/buffer core/rents engine/traces",
    "_engine/plain_cursors.py": "engine/cursors engine/traces",
}
QUICK = (
    "core/contract core/eviction core/ledger core/lifetime core/errors core/limits core/rents core/files core/buffer "
    "core/refresh core/regions core/log core/batches engine/cursors engine/regions engine/table_and_order "
    "engine/windows engine/batches engine/buffers"
)
SLOW = (
    "core/cost core/overlay core/locks core/interrupts core/threads core/trace core/tiny core/window engine/choice "
    "engine/ledger engine/descriptors engine/traces compat/names"
)

# Lines for other systems than this one, and lines that only types or messages for developers need.
LEFT_OUT = re.compile(
    r"PYPY|WINDOWS|KEEPS_DESCRIPTORS|RECLAIMS_LATE|FREE_THREADED|TYPE_CHECKING|TypeVar|assert |\.debug\("
)


class RemoveStatement(Operator):  # type: ignore[misc]
    """`pass` in place of a call, an assignment, a `del`, a `raise`, or a `return` without a value."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        if node.type != "simple_stmt" or node.search_ancestor("funcdef") is None:
            return
        first = node.children[0]
        if first.type not in ("string", "keyword", "import_from", "name"):
            yield first.start_pos, first.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        first = node.children[0]
        node.children[0] = Keyword("pass", first.start_pos, first.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


# Of two replacements that the same test would notice, only the closer one: `<` becomes `<=`, not `==`.
COMPARISONS = "Lt_LtE LtE_Lt Gt_GtE GtE_Gt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is"
BINARY = "Add_Sub Sub_Add Mul_FloorDiv FloorDiv_Mul Mod_FloorDiv RShift_LShift LShift_RShift BitOr_BitAnd BitAnd_BitOr"
OTHERS = (
    "AddNot ReplaceUnaryOperator_Delete_Not ReplaceUnaryOperator_USub_UAdd ReplaceTrueWithFalse ReplaceFalseWithTrue "
    "ReplaceAndWithOr ReplaceOrWithAnd ReplaceBreakWithContinue ReplaceContinueWithBreak NumberReplacer "
    "ZeroIterationForLoop ExceptionReplacer"
)
OPERATORS = {
    "RemoveStatement": RemoveStatement,
    **{
        name: cosmic_ray.plugins.get_operator(f"core/{name}")
        for name in (
            *(f"ReplaceComparisonOperator_{pair}" for pair in COMPARISONS.split()),
            *(f"ReplaceBinaryOperator_{pair}" for pair in BINARY.split()),
            *OTHERS.split(),
        )
    },
}


class Place(NamedTuple):
    """A place that cosmic-ray can change."""

    module: str
    line: int
    operator: str
    occurrence: int


def changed_lines(since: str) -> dict[str, set[int]]:
    """The numbers of the lines of each module that differ from a commit."""
    command = ["git", "diff", "-U0", "--no-color", "--no-ext-diff", since, "--", str(PACKAGE)]
    found: dict[str, set[int]] = {}
    for line in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines():
        if line.startswith("+++ "):
            lines = found.setdefault(line.partition(f"{PACKAGE.as_posix()}/")[2], set())
        elif place := re.match(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@", line):
            lines.update(range(int(place[1]), int(place[1]) + int(place[2] or 1)))
    return found


@cache
def text_of(module: str) -> str:
    """The text of a module when it was first read."""
    return (ROOT / PACKAGE / module).read_text(encoding="utf-8")


def bare(text: str) -> str:
    """The code of a module, without annotations, in one spelling."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            for arg in ast.walk(node.args):
                if isinstance(arg, ast.arg):
                    arg.annotation = None
            if isinstance(node, ast.FunctionDef):
                node.returns = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def places_of(module: str, lines: set[int] | None) -> Iterator[Place]:
    """All places on these lines, or on any."""
    text = text_of(module)
    rows, nodes = text.splitlines(), list(ast_nodes(get_ast(text)))
    for name, kind in OPERATORS.items():
        spans = [span for node in nodes for span in kind().mutation_positions(node)]
        for occurrence, ((first, _), (last, _)) in enumerate(spans):
            changed = lines is None or not lines.isdisjoint(range(first, last + 1))
            if changed and not LEFT_OUT.search("\n".join(rows[first - 1 : last])):
                yield Place(module, first, name, occurrence)


def mutated(place: Place) -> str:
    """The module with that change; empty if the code is the same, or is not valid Python."""
    text = text_of(place.module)
    new: str = mutate_code(text, OPERATORS[place.operator](), place.occurrence) or text
    try:
        return "" if bare(new) == bare(text) else new
    except SyntaxError:
        return ""


def difference(place: Place) -> str:
    """The lines that changed."""
    old = text_of(place.module).splitlines()
    both = list(difflib.unified_diff(old, mutated(place).splitlines(), n=0, lineterm=""))[2:]
    return "\n".join(f"    {line}" for line in both if not line.startswith("@@"))


def paths(names: Iterable[str]) -> list[str]:
    """Paths of test files, each once, from their short names above."""
    return list(dict.fromkeys("tests/{}/test_{}.py".format(*name.split("/")) for name in names))


def functions_of(module: Any) -> dict[str, Any]:
    """The functions of a module and of its classes, by name."""
    found: dict[str, Any] = {}
    for holder in (module, *(one for one in vars(module).values() if isinstance(one, type))):
        for value in vars(holder).values():
            function = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
            if isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__:
                found[function.__qualname__] = function
    return found


def codes_in(code: CodeType) -> Iterator[CodeType]:
    """A code object and those within it."""
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from codes_in(each)


class Trials:
    """A pytest plugin, which tries mutants instead of running the tests once.

    Each one runs in a fork of this process, where its function gets the changed code. Its tests are those that call
    the function, those of its module and the fastest ones first, for at most `budget` seconds together.
    """

    def __init__(self, chosen: list[Place], say: Callable[..., None], budget: float, at_a_time: int) -> None:
        self.chosen, self.say, self.budget, self.at_a_time = chosen, say, budget, at_a_time
        self.counts = {"killed": 0, "SURVIVED": 0, "time limit": 0, "no change": 0, "not in a function": 0}
        self.failed = False
        self.items: list[tuple[float, Any, set[int]]] = []
        """Each test: its time, itself, and the code that it calls."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        """Run all once, then each mutant."""
        self.functions = {
            name: functions_of(sys.modules[f"smmap.{name[:-3].replace('/', '.')}"])
            for name in dict.fromkeys(place.module for place in self.chosen)
        }
        session.config._tmp_path_factory.getbasetemp()  # now: the process that makes it deletes older folders
        self.look(session.items)
        self.say(f"{len(self.items)} tests, which take {sum(one[0] for one in self.items):.0f} s")
        waiting, running = [(number, place, None, ()) for number, place in enumerate(self.chosen, 1)][::-1], {}
        while waiting or running:
            while waiting and len(running) < self.at_a_time:
                trial = waiting.pop()
                started = self.start(*trial[1:])
                if isinstance(started, str):
                    self.tell(trial[0], trial[1], started, "")
                else:
                    running[started[0]] = (trial, *started[1:])
            for pid, (trial, pipe, limit) in list(running.items()):
                late = time.monotonic() > limit
                if late:
                    os.killpg(pid, signal.SIGKILL)
                if not os.waitpid(pid, 0 if late else os.WNOHANG)[0]:
                    continue
                del running[pid]
                with open(pipe, encoding="utf-8") as told:
                    killer = told.read()
                number, place, only, without = trial
                if late:
                    self.tell(number, place, "time limit", "")
                elif killer and only is None:
                    waiting.append((number, place, killer, without))  # does it also fail alone?
                elif only is not None and not killer:
                    waiting.append((number, place, None, (*without, only)))  # no: a test before it made it fail
                else:
                    self.tell(number, place, "killed" if killer else "SURVIVED", killer)
            time.sleep(0.02)
        self.say(*(f"{count} {verdict}," for verdict, count in self.counts.items()))
        return True

    def look(self, items: list[Any]) -> None:
        """Run all tests without a mutant, also in a fork: a test that runs twice in one process may fail."""
        out, into = os.pipe()
        pid = os.fork()
        if not pid:
            os.setsid()
            with open(into, "wb") as told:
                for item in items:
                    called: set[int] = set()
                    other = getattr(item, "callspec", None) and item.callspec.params.get("engine") == "fast"
                    seconds = -1 if other else self.run(item, called)
                    pickle.dump((seconds, called, self.failed), told)
            os._exit(0)
        os.close(into)
        with open(out, "rb") as told:
            for item in items:
                seconds, called, failed = pickle.load(told)
                if failed:
                    self.say("without a mutant:", item.nodeid)
                elif seconds >= 0:
                    self.items.append((seconds, item, called))
        os.waitpid(pid, 0)
        self.items.sort(key=lambda one: one[0])

    def tell(self, number: int, place: Place, verdict: str, killer: str) -> None:
        """Count and print."""
        self.counts[verdict] += 1
        self.say(f"{number:4} {verdict:9} {place.module}:{place.line} {place.operator} {killer}")
        if verdict not in ("killed", "no change"):
            self.say(difference(place))

    def run(self, item: Any, called: set[int] | None = None) -> float:
        """Run a test; return the time it took."""
        self.failed = False
        start = time.monotonic()
        if called is not None:
            threading.settrace(lambda frame, *_: called.add(id(frame.f_code)))
            sys.settrace(lambda frame, *_: called.add(id(frame.f_code)))
        try:
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
        return time.monotonic() - start

    def start(self, place: Place, only: str | None, without: tuple[str, ...]) -> str | tuple[int, int, float]:
        """Try a mutant in a new process; return its id, the file that will name the failed test, and its time limit.

        With only this test, or without those.
        """
        new = mutated(place)
        if not new:
            return "no change"
        functions, changes = self.functions[place.module], []
        for code in codes_in(compile(new, str(ROOT / PACKAGE / place.module), "exec", dont_inherit=True)):
            function = functions.get(code.co_qualname)
            if function is not None and function.__code__ != code:
                changes.append((function, code))
        if not changes:
            return "not in a function"
        changed = changes[0][0].__code__ if len(changes) == 1 else None
        if changed is None:  # lines below it moved
            changed = next(f.__code__ for f, _ in changes[::-1] if f.__code__.co_firstlineno <= place.line)
        within = {id(code) for code in codes_in(changed)}
        tests, left = [], self.budget
        first = paths(MODULES.get(place.module, "").split())
        for seconds, item, called in sorted(self.items, key=lambda one: one[1].nodeid.partition("::")[0] not in first):
            if only is not None:
                if item.nodeid == only:
                    tests.append(item)
            elif called & within and left > 0 and item.nodeid not in without:
                tests.append(item)
                left -= seconds
        out, into = os.pipe()
        pid = os.fork()
        if not pid:
            self.run_mutant(changes, tests, into)
        os.close(into)
        return pid, out, time.monotonic() + 20 + 5 * self.budget

    def run_mutant(self, changes: list[tuple[Any, CodeType]], tests: list[Any], into: int) -> None:
        """In the new process: never returns."""
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (1, 2):
            os.dup2(nowhere, number)
        name = "the tests"
        try:
            for function, code in changes:
                function.__code__ = code
            for item in tests:
                name = item.nodeid
                self.run(item)
                if self.failed:
                    os.write(into, name.encode())
                    break
        except BaseException:
            os.write(into, name.encode())
        finally:
            os._exit(0)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default="HEAD~1", metavar="COMMIT", help="lines changed since this commit (HEAD~1)")
    parser.add_argument("--all", action="store_true", help="all lines")
    parser.add_argument("--module", nargs="+", default=list(MODULES), metavar="PATH", help="modules, below src/smmap")
    parser.add_argument("--sample", type=int, metavar="N", help="this many of the changes, at random")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16), help="seed of the choice")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N of the choice")
    parser.add_argument("--budget", type=float, default=10, metavar="SECONDS", help="test time of each mutant (10)")
    parser.add_argument("--slow", action="store_true", help="also run the slow tests")
    parser.add_argument("--list", action="store_true", help="only show the changes")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="mutants at a time (2)")
    return parser.parse_args()


def main() -> int:
    options = parsed()
    lines = {} if options.all else changed_lines(options.since)
    found = [
        place
        for module in options.module
        if options.all or module in lines
        for place in places_of(module, lines.get(module))
    ]
    chosen = random.Random(options.seed).sample(found, min(options.sample or len(found), len(found)))[options.skip :]
    print(f"{len(chosen)} of {len(found)} places, --seed {options.seed}", flush=True)
    if options.list or not chosen:
        for place in chosen:
            print(*place, difference(place) or "    no change", sep="\n")
        return 0
    os.environ.update(SMMAP_ENGINE="plain", SMMAP_STRESS_SECONDS="0", PYTHONPATH=str(ROOT / "src"))
    sys.path.insert(0, str(ROOT / "src"))
    screen = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    trials = Trials(chosen, partial(print, file=screen, flush=True), options.budget, options.j)
    own = " ".join(MODULES.get(module, "") for module in options.module)
    names = (*QUICK.split(), *own.split(), *(SLOW.split() if options.slow else ()))
    with tempfile.TemporaryDirectory(prefix="smmap-mutation-") as folder:
        os.chdir(ROOT)
        common = ["-q", "-s", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder}/tmp"]
        pytest.main([*common, *paths(names)], plugins=[trials])
    return bool(trials.counts["SURVIVED"])


if __name__ == "__main__":
    sys.exit(main())
