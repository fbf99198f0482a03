"""What votes come to: the majority on each candidate, and how far labellers agree, with each other and themselves."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from otrain_infer.errors import UsageError
from otrain_train.votes import FALSE, TRUE, Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rule:
    """When votes make a label.

    Attributes
    ----------
    min_votes
        How many labellers must have said true or false.
    min_agreement
        Part of all votes, unsure ones among them, by weight, that the majority must have.
    weights
        Labeller -> what the votes of that labeller count; 1 for others.
    """

    min_votes: int = 1
    min_agreement: float = 0.5
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.min_votes < 1:
            raise UsageError(f"{self.min_votes} votes decide nothing: give 1 or more")
        if not 0 <= self.min_agreement <= 1:
            raise UsageError(f"an agreement of {self.min_agreement} makes no sense: give one from 0 to 1")
        for name, weight in self.weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"the votes of '{name}' cannot count {weight}: give 0 or more")

    def warn_of_strangers(self, tally: Tally) -> None:
        """Say which weights are of nobody who has voted: a name may be misspelt."""
        if unknown := sorted(self.weights.keys() - set(tally.labellers)):
            voted = ", ".join(tally.labellers) or "nobody"
            log.warning("weights are given for %s, without a vote; who has voted: %s", ", ".join(unknown), voted)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the votes on a candidate come to.

    Attributes
    ----------
    label
        true or false, or an empty text where they decide nothing.
    agreement
        Part of the votes, by weight, that the majority has.
    why
        Why they decide nothing: ``few`` votes, a ``tie``, or too little ``agreement``.
    """

    label: str
    agreement: float
    why: str = ""


def judge(votes: Mapping[str, str], rule: Rule) -> Verdict:
    """Judge the votes on one candidate, labeller -> true, false or unsure."""
    counts: Counter[str] = Counter()
    for labeller, vote in votes.items():
        counts[vote] += rule.weights.get(labeller, 1.0)  # type: ignore[assignment]
    whole, true, false = math.fsum(counts.values()), counts[TRUE], counts[FALSE]
    agreement = max(true, false) / whole if whole > 0 else 0.0
    if sum(rule.weights.get(name, 1.0) > 0 and vote in (TRUE, FALSE) for name, vote in votes.items()) < rule.min_votes:
        return Verdict("", agreement, "few")
    if math.isclose(true, false):
        return Verdict("", agreement, "tie")
    if agreement < rule.min_agreement - 1e-9:
        return Verdict("", agreement, "agreement")
    return Verdict(TRUE if true > false else FALSE, agreement)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two labellers, or one who looks twice, agree on the candidates that both have voted on.

    Attributes
    ----------
    one, other
        Their names; the same for second looks.
    n
        Candidates that both have voted on.
    same
        How many of these both voted alike.
    kappa
        Cohen's kappa; NaN where there are none, or both say nothing but the same word.
    """

    one: str
    other: str
    n: int
    same: int
    kappa: float


def agreements(tally: Tally) -> list[Agreement]:
    """Compare each pair of labellers, and the second looks of each with the first."""
    own = {name: tally.of(name) for name in tally.labellers}
    found = []
    for name in own:
        looks = tally.looks.get(name, {}).values()
        if looks:
            found.append(_compare(name, name, [(look.before, look.now) for look in looks]))
    for one, other in combinations(own, 2):
        pairs = [(vote, own[other][key]) for key, vote in own[one].items() if key in own[other]]
        if pairs:
            found.append(_compare(one, other, pairs))
    return found


def _compare(one: str, other: str, pairs: list[tuple[str, str]]) -> Agreement:
    return Agreement(one, other, len(pairs), sum(a == b for a, b in pairs), cohen_kappa(pairs))


def cohen_kappa(pairs: Iterable[tuple[str, str]]) -> float:
    """Give Cohen's kappa of votes in pairs (Cohen 1960): agreement beyond chance, over all that chance leaves.

    Returns
    -------
    float
        At most 1; NaN where there is no pair, or chance alone leaves nothing to disagree on.
    """
    counts = Counter(pairs)
    n = counts.total()
    first, second = Counter[str](), Counter[str]()
    for (one, other), count in counts.items():
        first[one] += count
        second[other] += count
    same = sum(count for (one, other), count in counts.items() if one == other)
    chance = sum(first[word] * second[word] for word in first)
    return (same * n - chance) / (n * n - chance) if n * n > chance else math.nan
