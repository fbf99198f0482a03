"""Who is told of each batch that a stream has delivered: a tally for its end, and the monitor."""

from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from otrain_infer.batches import Scored
from otrain_infer.cutouts import Cutouts
from otrain_infer.live_model import Loaded
from otrain_infer.monitor import Monitor
from otrain_infer.partitions import Position
from otrain_infer.stream import Pace

KEPT = 100_000
"""Of so many alerts, the last ones, the latencies are told."""


LAGS_EVERY = 1.0
"""How often the monitor is told how many messages wait (s)."""


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

    def tick(self) -> None:
        """Do nothing."""

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


class MonitorFeed:
    """Tells a monitor what a stream does.

    Parameters
    ----------
    monitor
        The monitor.
    model
        That it counts for.
    lags
        Gives how many messages wait in each partition.
    """

    def __init__(self, monitor: Monitor, model: Loaded, lags: Callable[[], Mapping[Position, int]]) -> None:
        self._monitor, self._model, self._lags = monitor, model, lags
        self._lags_pace = Pace(LAGS_EVERY)

    def see(self, model: Loaded, cutouts: Cutouts) -> None:
        """See cutouts before they are scored; good for several threads at once."""
        if model is self._model:
            self._monitor.observe_pixels(cutouts.pixels, cutouts.usable)

    def observe(self, scored: Scored, delivered: float) -> None:
        """See a batch that has been delivered, and when (s, `time.time`)."""
        if scored.model is not self._model:
            self._model, scorer = scored.model, scored.model.scorer
            self._monitor.switch(scorer.card, scorer.identity, scorer.sha256)
        alerts = ~scored.poison
        sent = np.array(scored.batch.timestamps, np.float64)
        self._monitor.observe(scored.cutouts.flags[alerts], scored.scores[alerts], delivered - sent)
        self._monitor.count_dead_letters(len(alerts) - int(alerts.sum()))
        self._monitor.count_disagreements(len(scored.disagreements))

    def tick(self) -> None:
        """Tell how many messages wait, now and then."""
        if self._lags_pace.is_due():
            self._monitor.set_lags(self._lags())


def _quantiles(seconds: deque[float]) -> str:
    half, most = np.quantile(np.array(seconds), [0.5, 0.99])
    return f"{1000 * half:.0f} ms for half of them and {1000 * most:.0f} ms for 99 %"
