"""Mutants that cosmic-ray makes of the policy and the plain engine, on the lines that changed: `make mutation`.

    python tools/mutation.py --since COMMIT     of all lines that differ from that commit (HEAD~1)
    python tools/mutation.py --all              of all lines
    python tools/mutation.py --sample 200       200 of them at random; --seed repeats a choice
    python tools/mutation.py --module _cache.py engine/plain.py ...
    python tools/mutation.py --list             only show them

Each mutant gets the quick tests first, those of its module before the others, and the slow ones if it survives those.
What survives both is printed as a diff, and has to be killed by a new test, or not be needed at all, or change
nothing that anyone could notice. `tools/mutants.py` has the mutants that each break one promise.
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
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

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
    "core/refresh core/regions core/log core/overlay core/batches core/cost engine/cursors engine/regions "
    "engine/table_and_order engine/ledger engine/descriptors engine/windows engine/batches engine/traces engine/buffers"
)
SLOW = (
    "core/locks core/interrupts core/threads core/trace core/tiny core/window engine/choice compat/names faces/buffers "
    "faces/default faces/files faces/pickling"
)

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
    text = (ROOT / PACKAGE / module).read_text(encoding="utf-8")
    rows, nodes = text.splitlines(), list(ast_nodes(get_ast(text)))
    for name, kind in OPERATORS.items():
        spans = [span for node in nodes for span in kind().mutation_positions(node)]
        for occurrence, ((first, _), (last, _)) in enumerate(spans):
            changed = lines is None or not lines.isdisjoint(range(first, last + 1))
            if changed and not LEFT_OUT.search("\n".join(rows[first - 1 : last])):
                yield Place(module, first, name, occurrence)


def mutated(place: Place) -> str:
    """The module with that change; nothing if it does the same, or is no Python."""
    text = (ROOT / PACKAGE / place.module).read_text(encoding="utf-8")
    new: str = mutate_code(text, OPERATORS[place.operator](), place.occurrence) or text
    try:
        return "" if bare(new) == bare(text) else new
    except SyntaxError:
        return ""


def difference(place: Place) -> str:
    """The lines that changed."""
    old = (ROOT / PACKAGE / place.module).read_text(encoding="utf-8").splitlines()
    both = list(difflib.unified_diff(old, mutated(place).splitlines(), n=0, lineterm=""))[2:]
    return "\n".join(f"    {line}" for line in both if not line.startswith("@@"))


def paths(names: Iterable[str]) -> list[str]:
    """Test files, each once, as they are named above."""
    return list(dict.fromkeys("tests/{}/test_{}.py".format(*name.split("/")) for name in names))


def killer_of(
    place: Place, folders: queue.SimpleQueue[Path], slow: str, options: list[str], seconds: float
) -> str | None:
    """The first test that fails, "" if none does; None if there is nothing to change."""
    new = mutated(place)
    if not new:
        return None
    folder = folders.get()
    path = folder / PACKAGE / place.module
    old = path.read_text(encoding="utf-8")
    try:
        path.write_text(new, encoding="utf-8")
        first = paths((*MODULES.get(place.module, "").split(), *QUICK.split()))
        for tests in filter(None, (first, [name for name in paths(slow.split()) if name not in first])):
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
                compiled.unlink()
            status, failed, last = run_tests(folder, tests, seconds, "-x", *options)
            if status:
                return failed[0] if failed else last
        return ""
    finally:
        path.write_text(old, encoding="utf-8")
        folders.put(folder)


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
    folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
    counts = {"killed": 0, "no change": 0, "SURVIVED": 0}
    with ExitStack() as stack:
        copies = [stack.enter_context(copy_of(ROOT)) for _ in range(options.j)]
        left_out, longest = [], 0.0
        slow = "" if options.quick else SLOW
        for names in filter(None, (QUICK, slow)):
            start = time.monotonic()
            status, failed, last = run_tests(copies[0], paths(names.split()), 3600)
            longest = max(longest, time.monotonic() - start)
            if status:
                print("without a mutant:", *failed or [last], flush=True)
                left_out += [f"--deselect={name}" for name in failed]
        for folder in copies:
            folders.put(folder)
        pool = stack.enter_context(ThreadPoolExecutor(options.j))
        killers = pool.map(lambda one: killer_of(one, folders, slow, left_out, 3 * longest), chosen)
        for number, (place, killer) in enumerate(zip(chosen, killers), 1):
            verdict = "no change" if killer is None else "killed" if killer else "SURVIVED"
            counts[verdict] += 1
            print(f"{number:4} {verdict:9} {place.module}:{place.line} {place.operator} {killer or ''}", flush=True)
            if killer == "":
                print(difference(place), flush=True)
    print(*(f"{count} {verdict}" for verdict, count in counts.items()), sep=", ")
    return bool(counts["SURVIVED"])


if __name__ == "__main__":
    sys.exit(main())
