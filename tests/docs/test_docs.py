"""The documentation is true: its Python runs, its commands and extras exist, its site builds and needs no other host.

The Python blocks of a page run in order, as in a notebook, in a fresh folder where `data.bin` lies. Processes that they
spawn do not run the page again. A page that starts processes also runs as one script, which those processes import, and
runs twice. What stands in a comment behind a `print(...)` is what it prints, as far as an ellipsis (`...`) does not
stand for it; with `fast engine: ` before it, under that engine. Comments in a page say more:
`<!-- needs: numpy, distributed -->` what must be there, `<!-- python: 3.12 -->` above a block for later Pythons only,
`<!-- new process -->` above one that starts afresh, `<!-- with: torch, numpy -->` above one that also needs these.
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import smmap
from core._tools import payload

ROOT = Path(__file__).parents[2]
NOTES = ROOT / "docs" / "api-notes.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ABOVE = r"(?:<!-- (?:python: (?P<least>[\d.]+)|(?P<fresh>new process)|with: (?P<wanted>[\w., ]+)) -->\n+)?"
FENCE = re.compile(
    rf"^{ABOVE}(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
NEEDS = re.compile(r"^<!-- needs: (.*) -->$", re.MULTILINE)
NOTEBOOK = """
import sys
with open(sys.argv[1], encoding="utf-8") as page:
    code = compile(page.read(), sys.argv[1], "exec")
del page
exec(code)
if "pyarrow" in sys.modules:  # a thread of its that takes the interpreter's lock during the exit may end the process
    import os
    sys.stdout.flush()
    os._exit(0)
"""


PRINTED = re.compile(r"^( *)print\((?:.*\)|\n(?:\1 .*\n)+\1\))  # (.+)$", re.MULTILINE)
WIDEST = 84
"""Columns that a page shows without scrolling, at 1,440 pixels."""


class Block(NamedTuple):
    language: str
    line: int
    """Of the page, where the code starts; from 0."""
    code: str
    least: tuple[int, ...]
    """The first Python that it is for."""
    fresh: bool
    """Whether it runs in a new process."""
    wanted: tuple[str, ...] = ()
    """Modules without which it is left out."""


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's code, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        if match["language"] in languages:
            indent = len(match["indent"])
            code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
            least = tuple(int(part) for part in (match["least"] or "3").split("."))
            line = text.count("\n", 0, match.start("code"))
            wanted = tuple(module.strip() for module in (match["wanted"] or "").split(",") if module)
            found.append(Block(match["language"], line, code, least, bool(match["fresh"] or wanted), wanted))
    return found


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_blocks_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "one\n\n```python\na = 1\n```\n\n- item\n\n    ```python title='x'\n    if a:\n\n        b = 2\n    ```\n"
        "\n```sh\nls\n```\n"
        "<!-- python: 3.12 -->\n```python\nc\n```\n<!-- new process -->\n\n```python\nd\n```\n"
        "<!-- with: a, b.c -->\n```python\ne\n```\n"
    )
    assert blocks(page, "python") == [
        Block("python", 3, "a = 1\n", (3,), False),
        Block("python", 9, "if a:\n\n    b = 2\n", (3,), False),
        Block("python", 19, "c\n", (3, 12), False),
        Block("python", 24, "d\n", (3,), True),
        Block("python", 28, "e\n", (3,), True, ("a", "b.c")),
    ]
    assert [block.code for block in blocks(page, "sh")] == ["ls\n"]


PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]
PROCESSES = re.compile(r"^ *(?:from|import) (?:distributed|multiprocessing|joblib)\b|ProcessPool", re.MULTILINE)
PROCESS_PAGES = [page for page in PYTHON_PAGES if any(PROCESSES.search(block.code) for block in blocks(page, "python"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the code of a page runs."""
    new = tmp_path / "folder"
    new.mkdir()
    (new / "data.bin").write_bytes(payload(1_000_000))
    return new


def skip_without_what_it_needs(page: Path) -> None:
    for needed in NEEDS.findall(page.read_text(encoding="utf-8")):
        for module in needed.split(","):
            pytest.importorskip(module.strip())


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=name)
def test_python_runs_and_prints_what_its_comments_say(page: Path, folder: Path) -> None:
    skip_without_what_it_needs(page)
    lines: list[str] = []
    for block in blocks(page, "python"):
        if block.fresh:
            check_printed(run(page, lines, folder, "-c", NOTEBOOK), lines)
            lines = []
        add(lines, block)
    check_printed(run(page, lines, folder, "-c", NOTEBOOK), lines)


def check_printed(output: str, lines: list[str]) -> None:
    """What the comments say was printed, in their order; other output may be between."""
    rest = output.splitlines()
    for _, wanted in PRINTED.findall("\n".join(lines)):
        if wanted.startswith("fast engine: "):
            if smmap.engine != "fast":
                continue
            wanted = wanted.partition(": ")[2]
        pattern = re.compile(".*".join(map(re.escape, wanted.split("..."))))
        place = next((number for number, line in enumerate(rest) if pattern.fullmatch(line)), None)
        assert place is not None, f"not printed: {wanted}\nbut: {rest}"
        rest = rest[place + 1 :]


def test_what_comments_say_is_compared() -> None:
    lines = ["print(", "    a", ")  # 1 2", "if b:", "    print(b)  # [7...] end", "(c,) = d(0)  # no output"]
    check_printed("0\n1 2\nmore\n[789] end\n", lines)
    for wrong in "1 2\n", "[789] end\n1 2\n", "1 2\n[89] end\n":
        with pytest.raises(AssertionError, match="not printed"):
            check_printed(wrong, lines)


CODE_PAGES = [page for page in PAGES if blocks(page, "python", "sh", "text", "yaml") and page.parent != ROOT]


@pytest.mark.parametrize("page", CODE_PAGES, ids=name)
def test_code_fits_into_the_width_of_a_page(page: Path) -> None:
    lines = [line for block in blocks(page, "python", "sh", "text", "yaml") for line in block.code.splitlines()]
    assert [line for line in lines if len(line) > WIDEST] == []


def test_examples_show_something() -> None:
    """A reader of a page sees what an example gives: few blocks only assert, or define what the next one uses."""
    silent = {
        f"{name(page)}:{block.line}": block
        for page in PYTHON_PAGES
        for block in blocks(page, "python")
        if "print(" not in block.code and "assert" in block.code
    }
    assert len(silent) <= 6, list(silent)


def test_pages_that_start_processes_are_found() -> None:
    assert {page.stem for page in PROCESS_PAGES} == {"start", "dask", "workers"}


@pytest.mark.long
@pytest.mark.parametrize("page", PROCESS_PAGES, ids=name)
def test_page_saved_as_one_script_runs_twice(page: Path, folder: Path) -> None:
    """However processes are started that import the script: they must neither start others nor write files anew."""
    skip_without_what_it_needs(page)
    lines: list[str] = []
    for block in blocks(page, "python"):
        add(lines, block)
    for method in ("spawn", "forkserver"):
        if method in multiprocessing.get_all_start_methods():
            run(page, lines, folder, DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD=method)


def add(lines: list[str], block: Block) -> None:
    """Add the code of a block, if this Python can run it, on the lines that it has in its page, for error messages."""
    if sys.version_info >= block.least and all(map(is_there, block.wanted)):
        lines += [""] * (block.line - len(lines))
        lines += block.code.splitlines()


def is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def run(page: Path, lines: list[str], folder: Path, *options: str, **settings: str) -> str:
    """Run code of a page in the folder, by an interpreter of its own; what it printed."""
    script = folder.parent / f"page_{page.stem}.py"
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    variables = {key: value for key, value in os.environ.items() if not key.startswith(("SMMAP_", "FSSPEC_"))}
    paths = [str(Path(smmap.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables["PYTHONPATH"] = os.pathsep.join(paths)
    variables["PYTHONWARNINGS"] = "error::ResourceWarning"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", *options, str(script)],
        cwd=folder,
        env={**variables, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{name(page)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def commands(page: Path) -> list[list[str]]:
    """The commands of a page, without what is set before them and after `#`."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_exist(page: Path) -> None:
    """Targets of make, extras of pip, scripts of ours: what the page names is there."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"^([\w-]+) = \[", project.partition("[project.optional-dependencies]")[2], re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            wanted = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
            assert set(wanted) <= targets, words
        elif words[0] == "pip":
            for word in words[2:]:
                named = re.fullmatch(r"\.\[([\w,-]+)\]", word)
                assert named is None or set(named[1].split(",")) <= extras, words
        elif words[0].startswith("python") and words[1:] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), words


def test_nothing_leads_to_the_published_package() -> None:
    """`pip install 'smmap[numpy]'` would replace this smmap by the one of that name on PyPI."""
    wrong = re.compile(r"""\bsmmap\[|pip3? install[^\n`]*[\s'"=]smmap(?![\w./-])""")
    assert wrong.search("pip install 'smmap[numpy]'")
    assert wrong.search("pip install --upgrade smmap")
    assert not wrong.search("pip install '.[numpy]'    # in the sources of this smmap".partition("#")[0])
    read = [*PAGES, *ROOT.glob("*.md"), *(ROOT / "examples").glob("*"), *(ROOT / "src").rglob("*.py")]
    for page in read:
        if page.is_file():
            for line in page.read_text(encoding="utf-8").splitlines():
                assert not wrong.search(line.partition(" # ")[0]), (name(page), line)


class Loads(HTMLParser):
    """What a browser fetches for a page: not where links lead, but styles, scripts, pictures, fonts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "link" and given.get("rel") in ("canonical", "next", "prev", "edit"):
            return
        for key in ("src", "srcset", "data", "poster", *(("href",) if tag in ("link", "image", "use") else ())):
            if given.get(key):
                self.found.append(str(given[key]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    if sys.version_info < (3, 10):
        pytest.skip("what builds the site needs Python 3.10 or later")
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings_handlers.python")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in PAGES[1:] if page != NOTES}
    assert pages <= {found.relative_to(site) for found in site.rglob("*.html")}


def test_the_site_needs_no_other_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert len(loads.found) > 3
        assert [name for name in loads.found if re.match(r"(\w+:)?//", name) and not name.startswith("data:")] == []
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"""@import|url\(["']?(?:https?:)?//""", text) == [], style


def test_the_api_page_has_every_public_name(site: Path) -> None:
    text = (site / "api.html").read_text(encoding="utf-8")
    wanted = {f"smmap.{public}" for public in [*smmap.__all__, "open"] if not public.startswith(("__", "version"))}
    for module in ("fsspec", "numpy"):
        try:
            found: Any = importlib.import_module(f"smmap.{module}")
        except ImportError:
            continue
        wanted |= {f"smmap.{module}.{public}" for public in found.__all__}
    assert {public for public in wanted if f'id="{public}"' not in text} == set()


def noted() -> dict[str, str]:
    """What the API page shows under each name, besides the docstring."""
    parts = re.split(r"^## (.+)\n", NOTES.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2]))


def test_every_class_has_an_example_and_every_table_the_parameters_of_its_signature() -> None:
    pytest.importorskip("numpy")
    pytest.importorskip("fsspec")
    shown = set(re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    notes = noted()
    assert set(notes) <= shown
    for name in sorted(shown):
        found: Any = importlib.import_module(name.rpartition(".")[0])
        found = getattr(found, name.rpartition(".")[2])
        if isinstance(found, type) or name in notes:
            assert "```python" in notes[name], name
        named = re.findall(r"^\| `(\w+)` \|", notes.get(name, ""), re.MULTILINE)
        if named and "| option |" not in notes[name]:
            assert named == list(inspect.signature(found).parameters), name


def test_the_api_page_shows_no_internals(site: Path) -> None:
    text = re.sub(r"<[^>]*>", "", (site / "api.html").read_text(encoding="utf-8"))
    names = r"\b_[A-Z]\w+|\bSTEP\b|LONGEST_HEADER|BufferBase|CursorBase|ExchangedBytes|Batched|: Any\b"
    assert sorted(set(re.findall(names, text))) == []
    for method in ("gather", "ranges", "prefetch", "view", "unpack_from", "finditer"):
        assert f"{method}(" in text
