"""What is missing is applied in order; what was changed behind our back, or by a newer psyqueue, is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from psyqueue.backends.migrations import Applied, Migration, compared, load_migrations, plan
from psyqueue.errors import SchemaTooNew, StoreUnusable

KNOWN = (Migration(1, "jobs", "aa", "A;"), Migration(2, "lanes", "bb", "B;"), Migration(3, "more", "cc", "C;"))


@pytest.mark.parametrize("there", range(4))
def test_what_is_missing_is_planned_in_order(there: int) -> None:
    ledger = [each.applied for each in KNOWN[:there]]
    assert plan(KNOWN, ledger[::-1], "it") == KNOWN[there:]


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(SchemaTooNew, match="schema 4, this psyqueue knows 3"):
        plan(KNOWN, [*(each.applied for each in KNOWN), Applied(4, "new", "dd")], "it")


def test_a_newer_schema_will_do_if_all_that_is_new_was_made_for_that() -> None:
    ledger = [*(each.applied for each in KNOWN), Applied(4, "new", "dd", "pre")]
    assert plan(KNOWN, ledger, "it") == ()
    with pytest.raises(SchemaTooNew, match="schema 5, this psyqueue knows 3"):
        plan(KNOWN, [*ledger, Applied(5, "gone", "ee", "post")], "it")


def test_what_waits_is_no_gap() -> None:
    known = (*KNOWN, Migration(4, "gone", "dd", "D;", "post"), Migration(5, "last", "ee", "E;"))
    ledger = [each.applied for each in known if each.number != 4]
    assert plan(known, ledger, "it") == (known[3],)
    states = [(line.number, line.state) for line in compared(known, ledger, plan(known, ledger, "it"))]
    assert states == [(1, "applied"), (2, "applied"), (3, "applied"), (4, "waiting"), (5, "applied")]
    assert {line.state for line in compared(known, (), known)} == {"missing"}
    assert [line.state for line in compared(KNOWN, [Applied(4, "x", "y", "pre")], ())] == ["unknown"]


def test_a_file_without_a_phase_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "brought" / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / "brought" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    (folder / "0001_a.up.sql").write_text("-- phase: post\nSELECT 1;")
    assert [each.phase for each in load_migrations("brought")] == ["post"]
    (folder / "0002_b.up.sql").write_text("SELECT 1;")
    with pytest.raises(LookupError, match="phase"):
        load_migrations("brought")


@pytest.mark.parametrize(
    "ledger",
    [
        pytest.param([Applied(1, "jobs", "other")], id="an edited file"),
        pytest.param([Applied(1, "renamed", "aa")], id="another name"),
        pytest.param([Applied(2, "lanes", "bb")], id="a gap"),
    ],
)
def test_a_ledger_that_is_not_ours_is_refused(ledger: list[Applied]) -> None:
    with pytest.raises(StoreUnusable, match="differs"):
        plan(KNOWN, ledger, "it")
