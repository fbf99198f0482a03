"""Blind looks: which candidates are shown without score and votes, and which that were voted on are shown again."""

import zlib
from collections.abc import Sequence

import numpy as np

from otrain_train.votes import Tally

RECENT = 20
"""So many candidates that a labeller voted on last are not shown again yet: they would be recognised."""

TRIES = 30


class SecondLooks:
    """Chooses candidates that were voted on, by the same labeller or by others, to be shown again.

    As many first looks are blind besides. A candidate without a score is then as likely new as seen before, and nobody
    knows which.

    Parameters
    ----------
    keys
        Of all candidates.
    fraction
        Of the looks at candidates, how many are blind second looks, about.
    seed
        Decides which candidates have a blind first look, and which are shown again.
    """

    def __init__(self, keys: Sequence[str], fraction: float, seed: int) -> None:
        self._index = {key: index for index, key in enumerate(keys)}
        self._fraction = fraction
        self._rng = np.random.default_rng([seed, len(keys)])
        limit = int(fraction * (1 << 32))
        self.first = [_drawn(key, seed) < limit for key in keys]
        """Whether the first look at each candidate is blind."""

    def draw(self, tally: Tally, labeller: str, n: int) -> list[int]:
        """Give the indices of candidates to show again, as many as belong to `n` first looks, and as there are."""
        chance = self._fraction / max(1 - self._fraction, self._fraction)
        count = np.count_nonzero(self._rng.random(n) < chance)
        drawn = (self._draw_one(tally, labeller) for _ in range(count))
        return list(dict.fromkeys(index for index in drawn if index is not None))

    def _draw_one(self, tally: Tally, labeller: str) -> int | None:
        latest = tally.latest.get(labeller, [])
        recent, looked = set(latest[-RECENT:]), tally.looks.get(labeller, {})
        others = [name for name in tally.latest if name != labeller and tally.latest[name]]
        for _ in range(TRIES):
            # Half of them one's own, half of the others'.
            pool = (
                tally.latest[others[self._rng.integers(len(others))]] if others and self._rng.random() < 0.5 else latest
            )
            if len(pool) == 0:
                continue
            key = pool[self._rng.integers(len(pool))]
            if key not in recent and key not in looked and tally.standing.get(key) and key in self._index:
                return self._index[key]
        return None


def _drawn(key: str, seed: int) -> int:
    return zlib.crc32(f"{seed}/{key}".encode("utf-8", "surrogatepass"))
