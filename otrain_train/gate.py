"""The gate: whether a new model beats the one that it began from on the same rows, by McNemar's exact test."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

SIGNIFICANT = 0.05
"""A new model passes below this probability that one no better than the old one does as well."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparison of two models on the same rows gave.

    Attributes
    ----------
    only_new, only_old
        Rows that only the new model calls rightly, and those that only the old one does: all that can tell the two
        apart.
    both, neither
        Rows that both call rightly, and those that neither does.
    p
        Probability that a model no better than the old one has `only_new` or more of the rows on which they differ.
    passed
        Whether `p` is below `SIGNIFICANT`.
    """

    only_new: int
    only_old: int
    both: int
    neither: int
    p: float
    passed: bool

    def __str__(self) -> str:
        return (
            f"{self.only_new} validation rows only the new model calls rightly, {self.only_old} only the old one, "
            f"p = {self.p:.3g} of McNemar's exact test"
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the plain dictionary for JSON."""
        return asdict(self)


def compare(new: npt.ArrayLike, old: npt.ArrayLike) -> Verdict:
    """Compare two models by McNemar's exact test (McNemar 1947), one-sided: whether the new one beats the old one.

    Parameters
    ----------
    new, old
        Bool (n,): whether each of them calls a row rightly.

    Returns
    -------
    Verdict
        With p = 1 where they differ in no row.
    """
    right, before = np.asarray(new, np.bool_), np.asarray(old, np.bool_)
    only_new, only_old = int(np.sum(right & ~before)), int(np.sum(before & ~right))
    both, neither = int(np.sum(right & before)), int(np.sum(~right & ~before))
    differ = only_new + only_old
    p = float(binomtest(only_new, differ, alternative="greater").pvalue) if differ else 1.0
    return Verdict(only_new, only_old, both, neither, p, p < SIGNIFICANT)


def is_right(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.bool_]:
    """Say which rows are called rightly, bool (n,): real from the threshold on; a row without a score never is."""
    called = scores >= np.float32(threshold)
    return np.isfinite(scores) & np.equal(called, labels.astype(np.bool_))
