"""Filler among the rows is planted in test_planted_faults.py."""

import pytest
import torch

from pgtorch.proof.update_rows import rollout_rows


@pytest.mark.parametrize("seed", range(3))
def test_a_rollout_has_no_filler_among_its_rows(seed):
    before = torch.get_rng_state()
    rows = list(rollout_rows("", seed=seed))
    assert {row.check: row.status for row in rows} == {
        "filler among the rows": "PASS",
        "return against length of episodes": "PASS",
    }
    assert 1000 < int(rows[0].note.removesuffix(" rows").replace(",", "")) < 16 * 128  # there was filler to leave out
    assert rows == list(rollout_rows("", seed=seed))
    assert torch.equal(torch.get_rng_state(), before)
