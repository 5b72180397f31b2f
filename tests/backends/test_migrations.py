"""What is missing is applied in order; what was changed behind our back, or by a newer psyqueue, is refused."""

from __future__ import annotations

import pytest

from psyqueue.backends.migrations import Applied, Migration, plan
from psyqueue.errors import SchemaTooNew, StoreUnusable

KNOWN = (Migration(1, "jobs", "aa", "A;"), Migration(2, "lanes", "bb", "B;"), Migration(3, "more", "cc", "C;"))


@pytest.mark.parametrize("there", range(4))
def test_what_is_missing_is_planned_in_order(there: int) -> None:
    ledger = [each.applied for each in KNOWN[:there]]
    assert plan(KNOWN, ledger[::-1], "it") == KNOWN[there:]


def test_a_newer_schema_is_refused() -> None:
    with pytest.raises(SchemaTooNew, match="schema 4, this psyqueue knows 3"):
        plan(KNOWN, [*(each.applied for each in KNOWN), Applied(4, "new", "dd")], "it")


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
