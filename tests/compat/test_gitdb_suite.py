"""gitdb's own tests, from its published source archive, run unchanged on this library and a repository made here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ._gitrepo import GitRepo, make_varied_repo
from ._suite import OURS, names_of_tests, run_suite

# Skipped by gitdb itself, whatever reads the files.
NOT_IMPLEMENTED = {"test_pack.TestPack.test_pack_64": "not implemented"}

# They assert what happens at once after a `del`, in objects of gitdb's own.
COUNTING = {"test_stream.TestStream.test_decompress_reader", "test_util.TestUtils.test_lockedfd"}

# Writes and reads 100 MB of loose objects, which gitdb maps by itself: nothing of it goes through a window manager.
LEFT_OUT = "test_stream.TestObjDBPerformance.test_large_data_streaming"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> GitRepo:
    """More than the 1,000 packed objects that one test writes into a pack, loose ones, and no id that begins 0000."""
    repo = make_varied_repo(tmp_path_factory.mktemp("for_gitdb") / "small.git", large=2)
    names = set(repo.catalogue())
    assert len(names) > 1200
    assert len({name[:7] for name in names}) == len(names), "seven digits name one object"
    assert not any(name.startswith("0000") for name in names)
    return repo


def test_every_test_of_gitdb_passes(gitdb_source: Path, repo: GitRepo) -> None:
    expected = names_of_tests(gitdb_source / "gitdb" / "test")
    assert len(expected) == 24
    assert LEFT_OUT in expected
    expected.remove(LEFT_OUT)

    outcome = run_suite(
        gitdb_source,
        "gitdb/test",
        "--deselect=gitdb/test/performance/test_stream.py",
        conftest="import random\n\nrandom.seed(4012)\n",
        path=[gitdb_source, OURS.parent],
        environment={"GITDB_TEST_GIT_REPO_BASE": str(repo.path), "PYTHONHASHSEED": "0"},
    )

    apart = COUNTING if sys.implementation.name == "pypy" else set()
    assert set(outcome.failed) <= apart, outcome.output
    assert outcome.passed == sorted(set(expected) - set(NOT_IMPLEMENTED) - set(outcome.failed))
    assert {name: reason.partition(": ")[2] or reason for name, reason in outcome.skipped.items()} == NOT_IMPLEMENTED

    for name, file in outcome.modules.items():
        home = OURS if name.partition(".")[0] == "smmap" else gitdb_source / "gitdb"
        assert file is not None
        assert home in Path(file).resolve().parents, f"{name} was taken from {file}"
    assert {"smmap", "gitdb.pack", "gitdb.test.db.test_pack"} <= set(outcome.modules)
