"""What a stream has done, in one line at its end."""

from collections import deque

import numpy as np

from otrain_infer.stream import Scored

KEPT = 100_000
"""Of so many alerts, the last ones, the latencies are told."""


class Tally:
    """Counts alerts, and keeps how long they took."""

    def __init__(self) -> None:
        self.alerts = self.unusable = self.poison = self.disagreements = 0
        self._waited: deque[float] = deque(maxlen=KEPT)
        self._aged: deque[float] = deque(maxlen=KEPT)

    def observe(self, scored: Scored, delivered: float) -> None:
        """See a batch that has been delivered, and when (s, `time.time`)."""
        poison = scored.poison
        self.alerts += int((~poison).sum())
        self.poison += int(poison.sum())
        self.unusable += int((np.isnan(scored.scores) & ~poison).sum())
        self.disagreements += len(scored.disagreements)
        self._waited.extend([delivered - scored.batch.taken] * len(scored.batch.messages))
        self._aged.extend(delivered - told for told in scored.batch.timestamps if told is not None)

    def tell(self) -> str:
        """Say it."""
        said = (
            f"{self.alerts} alerts, {self.unusable} of them without a score, and {self.poison} messages that are none"
        )
        if self._waited:
            said += f"; from taken to delivered {_quantiles(self._waited)}"
        if self._aged:
            said += f", since they were sent {_quantiles(self._aged)}"
        return said


def _quantiles(seconds: deque[float]) -> str:
    half, most = np.quantile(np.array(seconds), [0.5, 0.99])
    return f"{1000 * half:.0f} ms for half of them and {1000 * most:.0f} ms for 99 %"
