import pytest

from pgtorch.proof.table import Row


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (Row("", "", 1.0, limit=1.0), "PASS"),
        (Row("", "", 1.1, limit=1.0), "FAIL"),
        (Row("", "", float("nan"), limit=1.0), "FAIL"),
        (Row("", "", float("inf"), limit=1.0), "FAIL"),
        (Row("", "", note="no table"), "SKIP"),
        (Row("", "", 0.5, known_bias=True), "BIAS"),
    ],
)
def test_status(row, status):
    assert row.status == status
