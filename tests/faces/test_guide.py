"""The guide's pages on the faces: each of their examples runs as it stands, in a fresh process and folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGES = ["bytes.md", "files.md", "numpy.md", "workers.md"]
BLOCKS = [
    pytest.param(block, id=f"{page}:{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", (GUIDE / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_example_runs(block: str, tmp_path: Path) -> None:
    for module in ("numpy", "pandas"):
        if re.search(rf"^import {module}\b", block, re.MULTILINE):
            pytest.importorskip(module)
    (tmp_path / "example.py").write_text(block, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "example.py"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("SMMAP_")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    """Pages of this guide that are named exist, and so do their headings."""
    for name, anchor in re.findall(r"\]\(([\w-]+\.md)(?:#([\w-]+))?\)", (GUIDE / page).read_text(encoding="utf-8")):
        text = (GUIDE / name).read_text(encoding="utf-8")
        headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
        assert not anchor or anchor in headings, (name, anchor)
