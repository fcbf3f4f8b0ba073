"""Mutants that cosmic-ray makes of the policy and the plain engine, on the lines that changed: `make mutation`.

    python tools/mutation.py --since COMMIT     of all lines that differ from that commit (HEAD~1)
    python tools/mutation.py --all              of all lines
    python tools/mutation.py --sample 200       200 of them at random; --seed repeats a choice
    python tools/mutation.py --module _cache.py _engine/plain.py    only of these
    python tools/mutation.py --quick            only the quick tests
    python tools/mutation.py --list             only show what would change

Each mutant gets the quick tests first, those of its module before the others, and all of them if it survives those.
Which are quick, a run without any mutant says. What survives is printed as a diff, and has to be killed by a new test,
or not be needed at all, or change nothing that anyone could notice. `tools/mutants.py` has mutants that were thought
of, each of which breaks one promise.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import queue
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cosmic_ray.plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from mutants import ROOT, copy_of, run_tests
from parso.python.tree import Keyword

PACKAGE = Path("src/smmap")

# The modules, and the tests that know most about each.
MODULES = {
    "_manager.py": "core/contract core/files core/errors core/eviction core/limits",
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
    "engine/ledger engine/descriptors engine/traces compat/names faces/buffers faces/default faces/files faces/pickling"
)

LONG = 0.1  # seconds, of a test

# What depends on another system than this one, what only types or messages for developers need.
LEFT_OUT = re.compile(
    r"PYPY|WINDOWS|KEEPS_DESCRIPTORS|RECLAIMS_LATE|FREE_THREADED|TYPE_CHECKING|TypeVar|assert |\.debug\("
)


class RemoveStatement(Operator):  # type: ignore[misc]
    """`pass` in place of a call, an assignment, a `del`, a `raise` or a `return` with nothing after it."""

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


# Of two replacements that one test would notice only the nearer one: `<` becomes `<=`, not `==`.
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
    """Where cosmic-ray can change something."""

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
    """A module as it was when it was looked at first."""
    return (ROOT / PACKAGE / module).read_text(encoding="utf-8")


def bare(text: str) -> str:
    """What a module does: without annotations, in one spelling."""
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
    """The module with that change; nothing if it does the same, or is no Python."""
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
    """Test files, each once, as they are named above."""
    return list(dict.fromkeys("tests/{}/test_{}.py".format(*name.split("/")) for name in names))


def timed(folder: Path) -> tuple[list[str], list[str], float]:
    """Without a mutant: which tests fail, which of the quick ones take long, and how long the others take together."""
    report = folder / "report.xml"
    status, failed, last = run_tests(folder, paths(QUICK.split()), 3600, f"--junitxml={report}")
    if status:
        print("without a mutant:", *failed or [last], flush=True)
    times = {
        f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}": float(case.get("time", 0))
        for case in ElementTree.parse(report).iter("testcase")
    }
    slow = [name for name, seconds in times.items() if seconds > LONG]
    return failed, slow, sum(times.values()) - sum(times[name] for name in slow)


class Trial(NamedTuple):
    """How mutants are tried."""

    folders: queue.SimpleQueue[Path]
    """Copies of the sources, one for each that is tried at a time."""
    failing: list[str]
    slow: list[str]
    seconds: float
    """The time limit of the quick tests."""
    quick: bool
    """Whether no others run."""

    def killer_of(self, place: Place) -> str | None:
        """The first test that fails, "" if none does; None if there is nothing to change."""
        new = mutated(place)
        if not new:
            return None
        folder = self.folders.get()
        path = folder / PACKAGE / place.module
        old = path.read_text(encoding="utf-8")
        own = MODULES.get(place.module, "").split()
        try:
            path.write_text(new, encoding="utf-8")
            for names, left_out, seconds in (
                ([*own, *QUICK.split()], [*self.failing, *self.slow], self.seconds),
                ([*own, *QUICK.split(), *SLOW.split()], self.failing, 20 * self.seconds),
            ):
                for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
                    compiled.unlink()
                options = (f"--deselect={name}" for name in left_out)
                status, failed, last = run_tests(folder, paths(names), seconds, "-x", *options)
                if status or self.quick:
                    break
            return (failed[0] if failed else last) if status else ""
        finally:
            path.write_text(old, encoding="utf-8")
            self.folders.put(folder)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default="HEAD~1", metavar="COMMIT", help="lines that differ from it (HEAD~1)")
    parser.add_argument("--all", action="store_true", help="all lines")
    parser.add_argument("--module", nargs="+", default=list(MODULES), metavar="PATH", help="below src/smmap")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, at random")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16), help="of the choice")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first of the choice")
    parser.add_argument("--quick", action="store_true", help="without the slow tests, which take minutes")
    parser.add_argument("--list", action="store_true", help="only show them")
    parser.add_argument("-j", type=int, default=2, metavar="N", help="so many at a time (2)")
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
    counts = {"killed": 0, "no change": 0, "SURVIVED": 0}
    with ExitStack() as stack:
        folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        copies = [stack.enter_context(copy_of(ROOT)) for _ in range(options.j)]
        failing, slow, seconds = timed(copies[0])
        print(f"the quick tests take {seconds:.0f} s, without {len(slow)} that take long", flush=True)
        trial = Trial(folders, failing, slow, 30 + 4 * seconds, options.quick)
        for folder in copies:
            folders.put(folder)
        pool = stack.enter_context(ThreadPoolExecutor(options.j))
        futures = {pool.submit(trial.killer_of, place): number for number, place in enumerate(chosen, 1)}
        for future in as_completed(futures):
            number, killer = futures[future], future.result()
            place = chosen[number - 1]
            verdict = "no change" if killer is None else "killed" if killer else "SURVIVED"
            counts[verdict] += 1
            print(f"{number:4} {verdict:9} {place.module}:{place.line} {place.operator} {killer or ''}", flush=True)
            if killer == "":
                print(difference(place), flush=True)
    print(*(f"{count} {verdict}" for verdict, count in counts.items()), sep=", ")
    return bool(counts["SURVIVED"])


if __name__ == "__main__":
    sys.exit(main())
