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


def order_of(order: str, blind: npt.NDArray[np.bool_], scores: Scores, seed: int) -> Order:
    """Give the candidates in an order.

    Parameters
    ----------
    order
        One of `ORDERS`: ``uncertainty`` has the scores nearest 0.5 first (uncertainty sampling, Lewis & Gale 1994),
        ``disagreement`` those where two models are furthest apart (query by committee, Seung et al. 1992). Candidates
        without a score come last.
    blind
        bool (n,): those whose score is not to be told. In an order by scores their place would tell it, and is any.
    scores
        float32 (models, n), NaN where there is none.
    seed
        Of what is at random.

    Returns
    -------
    ndarray
        uint32 (n,), their indices.
    """
    rng = np.random.default_rng(seed)
    if order == "name":
        return np.arange(blind.size, dtype=np.uint32)
    if order == "random":
        return rng.permutation(blind.size).astype(np.uint32)
    ranks = np.abs(scores[0] - 0.5) if order == "uncertainty" else -np.abs(scores[0] - scores[1])
    chosen = np.argsort(ranks, kind="stable")
    hidden = rng.permutation(np.flatnonzero(blind))
    is_hidden = np.zeros(blind.size, np.bool_)
    is_hidden[rng.choice(blind.size, hidden.size, replace=False)] = True
    order_found = np.empty(blind.size, np.uint32)
    order_found[is_hidden], order_found[~is_hidden] = hidden, chosen[~blind[chosen]]
    return order_found
