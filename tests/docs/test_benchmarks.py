"""The benchmark measures what it says: goals of both engines, wrong bytes, and the tables that are written from it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import smmap

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The benchmark's modules."""
    monkeypatch.syspath_prepend(str(ROOT))
    names = ("harness", "report", "__main__")
    return SimpleNamespace(**{name.strip("_"): importlib.import_module(f"benchmarks.{name}") for name in names})


@pytest.fixture
def measured(bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Measure a row of contenders that take so many seconds of a clock that only they move."""
    clock = [0.0]
    monkeypatch.setattr(bench.harness.Settings, "now", lambda _self: clock[0])

    def measure(times: dict[str, float], data: dict[str, bytes] | None = None, **aims: Any) -> Any:
        def contender(name: str, seconds: float) -> Any:
            def run(passes: int) -> None:
                clock[0] += passes * seconds

            role = name if name in ("limit", "fast", "plain") else "peer"
            return bench.harness.Contender(name, run, lambda: [(data or {}).get(name, b"the same")], role)

        row = bench.harness.Row(
            "a row",
            "hits",
            "the limit",
            bench.harness.aims_of(**{"fast": None, "plain": None, **aims}),
            lambda _settings: [contender(*one) for one in times.items()],
            {},
        )
        return bench.harness.measure(row, bench.harness.Settings(rounds=3))

    return measure


TIMES = {"limit": 1.0, "fast": 1.2, "plain": 3.0, "smmap 5": 10.0}


def test_goals_are_multiples_of_the_limit_and_of_smmap_5(measured: Any) -> None:
    result = measured(TIMES, fast=1.1, plain=0.5)
    assert result.value("fast") == pytest.approx(1.2)
    assert result.value("plain") == pytest.approx(0.3)
    assert (result.holds("fast"), result.holds("plain")) == (False, True)


def test_goals_of_another_contender_and_of_nanoseconds(bench: SimpleNamespace, measured: Any) -> None:
    aim = bench.harness.Aim
    result = measured(TIMES, fast=aim(2e8, more=True), plain=aim(2.4, "fast"))
    assert result.value("fast") == pytest.approx(0.2e9)
    assert result.value("plain") == pytest.approx(2.5)
    assert (result.holds("fast"), result.holds("plain")) == (True, False)


def test_an_engine_that_is_not_there_has_no_verdict(measured: Any) -> None:
    result = measured({"limit": 1.0, "plain": 3.0, "smmap 5": 10.0}, fast=1.1, plain=0.5)
    assert (result.holds("fast"), result.holds("plain")) == (None, True)


def test_the_median_of_the_processes_is_judged(bench: SimpleNamespace, measured: Any) -> None:
    results = [
        measured({**TIMES, "fast": fast, "plain": plain}, fast=2, plain=1) for fast, plain in ((5, 1), (1, 9), (2, 2))
    ]
    joined = bench.harness.join(results)
    assert (joined.value("fast"), joined.value("plain")) == (pytest.approx(2), pytest.approx(0.2))
    assert joined.contenders["fast"].least == pytest.approx(2)


def test_wrong_bytes_of_a_peer_are_marked_and_of_ours_are_an_error(measured: Any) -> None:
    assert measured(TIMES, {"smmap 5": b"others"}).contenders["smmap 5"].note == "wrong bytes"
    for name in ("fast", "plain"):
        with pytest.raises(AssertionError, match=f"{name} gets other data"):
            measured(TIMES, {name: b"others"})


def test_results_survive_a_file(bench: SimpleNamespace, measured: Any, tmp_path: Path) -> None:
    result, where = measured(TIMES, fast=1.1, plain=0.5), {"Commit": "1"}
    bench.report.write_json(str(tmp_path / "one"), [result], where)
    assert bench.report.read_json(str(tmp_path / "one")) == ([result], where)
    bench.report.write_json(str(tmp_path / "two"), [result], {"Commit": "2"})
    with pytest.raises(SystemExit, match="another commit"):
        bench.report.read_json(str(tmp_path / "one"), str(tmp_path / "two"))


def test_tables_are_replaced_in_page_and_readme(
    bench: SimpleNamespace, measured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = bench.report
    for name in ("PAGE", "README"):
        path = tmp_path / name
        path.write_text(f"before\n{report.START}\nwhat was here\n{report.END}\nafter\n")
        monkeypatch.setattr(report, name, path)
    result = measured(TIMES, fast=1.1, plain=0.5)
    result.name = next(iter(report.IN_README))
    where = report.machine(bench.harness.Settings())
    report.write_docs([result], where)
    page, readme = report.PAGE.read_text(), report.README.read_text()
    assert f"| {result.name} | the limit | x1.20 | x1.10 | **no** | x3.00 | x0.30 | x0.50 | yes | x10.0 |" in page
    assert f"| {report.IN_README[result.name]} | the limit | x1.20 | x3.00 | x10.0 |" in readme
    assert "fast: 0 of 1 goals hold; plain: 1 of 1 goals hold" in page
    assert all(
        text.startswith("before") and text.endswith("after\n") and "what was here" not in text
        for text in (page, readme)
    )
    report.write_docs([result], where)
    assert (page, readme) == (report.PAGE.read_text(), report.README.read_text())


def test_rows_that_are_named_elsewhere_exist(bench: SimpleNamespace) -> None:
    rows = {one.name for one in bench.main.chosen([], quick=False)}
    assert set(bench.report.IN_README) <= rows
    assert {name for one in bench.harness.DERIVED for name in one.rows} <= rows
    assert {one.subject for one in bench.harness.ROWS} == set(bench.report.SUBJECTS)


def test_a_row_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    environment = {**os.environ, "SMMAP_BENCH_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "benchmarks", "--quick", "--cpu", "--json", str(tmp_path / "json")]
    done = subprocess.run(
        [*command, "guard: buf[i] near"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "json").read_text())["rows"]
    if smmap.engine == "fast":
        assert set(row["contenders"]) == {"fast", 'guard="off"'}
        assert row["holds"]["fast"] in (True, False)
    else:
        assert row["skipped"] == "the plain engine guards nothing"
