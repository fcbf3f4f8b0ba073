"""Checks the words of documentation, docstrings, comments, error and help texts: `make lint`. Needs no network.

A small vocabulary of words that this project does not use, each with the one to use; and two patterns that make
sentences hard to read. Spelling is codespell's part. Code is not looked at: neither blocks and `code` in Markdown, nor
anything but comments and strings of more than one word in sources.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
KINDS = {".md", ".py", ".pyi", ".pyx", ".pxi", ".h"}
# From Python 3.12 on, an f-string is several tokens: these are its first and its last.
F_STRING = [getattr(tokenize, name) for name in ("FSTRING_START", "FSTRING_END") if hasattr(tokenize, name)]
FOLDERS = ("docs", "src", "examples", "tools", "benchmarks")

VOCABULARY = {
    r"begins?|beginning|begun": "start",
    r"(?<!Hugging )(?<!/)(?<!buffer )faces?": "interface, API",
    r"by and by": "later",
    r"that (is|are) none": "name what it is not: that is not a file",
    r"tells? of|is told|are told": "report, is reported",
    r"comes? near(er)?": "approach; or give the figure",
    r"from the begin": "from the start",
    r"(hold|holds) nothing any ?more": "release",
    r"reckon(s|ed|ing)?": "compute, estimate",
    r"the very": "exactly the, the same",
    r"as ever|(?<!n)ever more": "as before; more and more",
    r"for ever": "forever, without an end",
    r"(?<!memmap )anew": "again, new",
    r"whoever|whosoever": "name the subject: a program that, code that",
    r"each other one": "every other one",
    r"whence|thereby|wherefore|whereof|therein|hitherto": "a shorter word",
    r"(is|are|was|were) no (?=(array|file|mapping|list|copy|defect|ndarray|failure|reason|cache|memory)\b)": "is not a",
    r"looked through": "checked, searched",
    r"goes by": "uses",
    r"lies in that": "name the subject",
    r"nothing but": "only",
    r"(let|lets|letting) go( of)?": "release, unpin, close, drop",
    r"limits? of (memory|handles)(?!,)": "memory limit, handle limit",
    r"(is|are|was|were) to be": "should be, has to be",
    r"in this moment": "at this moment, just now",
    r"any more(?! than)": "no longer",
    r"lately": "recently",
    r"surely": "certainly",
    r"mended": "fixed",
    r"pickles? small": "has a small pickle",
    r"smmap reads only": "smmap only reads",
    r"(ends|ended) the process": "kills the process",
}
WORDS = [(re.compile(rf"\b(?:{words})\b", re.IGNORECASE), hint) for words, hint in VOCABULARY.items()]
# "What was read is reported": the clause has no noun, and a reader has to find its end first.
VERB = r"(?:is|are|was|were|has|have|had|stays?|raises?|may|can|must|goes|go|counts?|takes?|costs?|lies?|gets?|pays?)"
CLAUSE = re.compile(rf"(?:^|(?<=[.;:] ))(?:What|Who) (?:{VERB}|[a-z]+s)\b [^.;:?|]*?\b{VERB}\b[^.;:?|]*[.;:]")
HEADLESS = "give the clause its noun: 'the bytes that were read are', not 'what was read is'"


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """The prose of a page of Markdown, with the number of its first line."""
    fence, found, first = False, [], 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        stripped = line.strip()
        if stripped.startswith("```"):
            fence = not fence
            stripped = ""
        starts = re.match(r"([-*>:]|\d+\.) |[|#<]|!!!|\?\?\?", stripped)
        if found and (fence or not stripped or starts):
            yield first, " ".join(found)
            found = []
        if stripped and not fence and not stripped.startswith(("#", "<")):
            plain = re.sub(r"`[^`]*`|\]\([^)]*\)", "`", stripped)
            if stripped.startswith("|"):
                yield from ((number, cell.strip()) for cell in plain.split("|"))
                continue
            first = first if found else number
            found.append(re.sub(r"^([-*>:]|\d+\.) +", "", plain))


def between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text between two places, which are a line, from 1, and a column each."""
    found = lines[start[0] - 1 : end[0]]
    found[-1] = found[-1][: end[1]]
    found[0] = found[0][start[1] :]
    return "".join(found)


def strings(text: str) -> Iterator[tuple[int, str]]:
    """Comments and strings of a Python source."""
    lines = text.splitlines(keepends=True)
    block: list[str] = []
    starts: list[tuple[int, int]] = []  # of the f-strings that are not complete
    first = 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if not block:
                first = token.start[0]
            block.append(token.string.lstrip("#").strip())
            continue
        if token.type == tokenize.NL:
            continue
        if block:
            yield first, " ".join(block)
            block = []
        if token.type in F_STRING[:1]:
            starts.append(token.start)
        start, literal = token.start, token.string if token.type == tokenize.STRING and not starts else ""
        if token.type in F_STRING[1:]:
            start = starts.pop()
            literal = "" if starts else between(lines, start, token.end)
        if " " in literal:
            for part in re.split(r"\n\s*\n", literal):
                yield start[0], re.sub(r"`[^`]*`", "`", " ".join(part.split()).strip("\"'rbf"))


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Comments and docstrings of Cython and C."""
    for match in re.finditer(r'"""(.*?)"""|/\*(.*?)\*/|#[ !]([^\n]*)|//([^\n]*)', text, re.DOTALL):
        yield text.count("\n", 0, match.start()) + 1, " ".join(next(filter(None, match.groups()), "").split())


def faults(path: Path) -> Iterator[str]:
    """What is wrong in a file."""
    text = path.read_text(encoding="utf-8")
    read = {".md": paragraphs, ".py": strings, ".pyi": strings}.get(path.suffix, comments)
    for line, prose in read(text):
        for pattern, hint in [*WORDS, (CLAUSE, HEADLESS)]:
            for match in pattern.finditer(prose):
                around = prose[max(0, match.start() - 30) : match.end() + 30]
                yield f"{path.relative_to(HERE)}:{line}: {match[0][:60]!r}: {hint}\n    ...{around[:150]}..."


def files() -> list[Path]:
    """The files that git knows, or all of an unpacked sdist."""
    done = subprocess.run(["git", "ls-files"], cwd=HERE, capture_output=True, text=True, check=False)
    names = done.stdout.split("\n") if done.returncode == 0 and done.stdout else []
    found = [HERE / name for name in names] or [path for folder in FOLDERS for path in (HERE / folder).rglob("*")]
    found += [] if names else list(HERE.glob("*.md"))
    parts = [(path, path.relative_to(HERE).parts) for path in found if path.suffix in KINDS and path.is_file()]
    return [path for path, names in parts if names[0] in FOLDERS or len(names) == 1]


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    found = [fault for path in sorted(files()) if path != Path(__file__).resolve() for fault in faults(path)]
    print(*found, sep="\n") if found else print("prose: no fault found in", len(files()), "files")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
