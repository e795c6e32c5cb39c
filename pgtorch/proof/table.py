"""A row of the verifier's table."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass


@dataclass(frozen=True)
class Row:
    """One comparison. It passes if value <= limit; without a value it was skipped, and the note says why.

    Attributes:
        subject: What was checked.
        check: How it was checked.
        value: How far apart two results are, at least 0.
        limit: The largest value that passes.
        unit: Unit of both.
        note: How the value was found.
        known_bias: The value is the size of a bias that the estimator's docstring states, so there is no limit.
    """

    subject: str
    check: str
    value: float | None = None
    _: KW_ONLY
    limit: float = math.inf
    unit: str = ""
    note: str = ""
    known_bias: bool = False

    @property
    def status(self) -> str:
        """PASS, FAIL, SKIP, or BIAS for a known bias."""
        if self.value is None:
            return "SKIP"
        if self.known_bias:
            return "BIAS"
        return "PASS" if self.value <= self.limit else "FAIL"  # NaN fails
