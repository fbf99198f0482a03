"""In which order candidates are shown: those first that teach a model most, or by name, or at random."""

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import UsageError

Order = npt.NDArray[np.uint32]
Scores = npt.NDArray[np.float32]

ORDERS = ("name", "random", "uncertainty", "disagreement")
MODELS_NEEDED = {"uncertainty": 1, "disagreement": 2}
"""Orders that need scores, and of how many models."""


def check_order(order: str, models: int) -> None:
    """Raise UsageError where an order needs more models than there are."""
    needed = MODELS_NEEDED.get(order, 0)
    if needed > models:
        options = "--model" if needed == 1 else "--model and --other-model"
        raise UsageError(f"the order '{order}' comes from scores: give {options}")


def order_of(order: str, n: int, scores: Scores, seed: int) -> Order:
    """Give the candidates in an order.

    Parameters
    ----------
    order
        One of `ORDERS`: ``uncertainty`` has the scores nearest 0.5 first (uncertainty sampling, Lewis & Gale 1994),
        ``disagreement`` those where two models are furthest apart (query by committee, Seung et al. 1992). Candidates
        without a score come last.
    n
        How many there are.
    scores
        float32 (models, n), NaN where there is none.
    seed
        Of the order at random.

    Returns
    -------
    ndarray
        uint32 (n,), their indices.
    """
    if order == "random":
        return np.random.default_rng(seed).permutation(n).astype(np.uint32)
    if order == "uncertainty":
        return np.argsort(np.abs(scores[0] - 0.5), kind="stable").astype(np.uint32)
    if order == "disagreement":
        return np.argsort(-np.abs(scores[0] - scores[1]), kind="stable").astype(np.uint32)
    return np.arange(n, dtype=np.uint32)
