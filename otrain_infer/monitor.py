"""Health of a stream as Prometheus reads it: alerts counted, scores and delays in histograms, drift."""

import logging
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from otrain_infer.card import ModelCard
from otrain_infer.drift import PSI_LARGE, SCORE, WINDOW, Drift, DriftWindow, Reference
from otrain_infer.errors import MissingExtraError, UsageError
from otrain_infer.flags import CutoutFlag

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import Metric

log = logging.getLogger(__name__)

HOST = "127.0.0.1"

RESULTS = ("scored", "unusable", "dead_letter")
RELOADS = ("switched", "refused")

# Calibrated probabilities of a good classifier crowd at both ends.
SCORE_BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.0)
LATENCY_BOUNDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds of the buckets (s)."""
BATCH_BOUNDS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0)

Floats = npt.NDArray[np.floating[Any]]
Row = tuple[Sequence[str], *tuple[Any, ...]]
"""Values of the labels of a metric, and its figures."""

METRICS = (
    ("counter", "otrain_alerts", "Alerts, by what became of them.", ("model", "result")),
    ("counter", "otrain_flags", "Alerts that bear a flag.", ("model", "flag")),
    ("histogram", "otrain_score", "Probability of being real, of each alert that is scored.", ("model",)),
    ("histogram", "otrain_latency_seconds", "From the time stamp of a message to the delivery of its score.", ()),
    ("histogram", "otrain_batch_alerts", "Alerts delivered at once.", ()),
    ("gauge", "otrain_lag_messages", "Messages of a partition that wait to be taken.", ("topic", "partition")),
    ("counter", "otrain_reloads", "Models that were to replace the one in use.", ("result",)),
    ("counter", "otrain_shadow_disagreements", "Alerts that the model and its shadow call otherwise.", ()),
    ("gauge", "otrain_model_info", "The model in use.", ("name", "version", "sha256")),
    ("gauge", "otrain_drift_psi", "Population Stability Index of the last window.", ("model", "quantity")),
    ("gauge", "otrain_drift_ks", "Kolmogorov-Smirnov distance of the last window.", ("model", "quantity")),
    ("gauge", "otrain_drift_ks_critical", "Distance that chance hardly ever exceeds.", ("model", "quantity")),
    ("gauge", "otrain_real_fraction", "Of the last window, as its scores tell.", ("model",)),
    ("gauge", "otrain_drifted", "1 where the last window has drifted, else 0.", ("model", "quantity")),
)
"""Kind, name (a counter's goes on with _total), help and labels of each metric."""

_DRIFT_FIGURES = {
    "otrain_drift_psi": "psi",
    "otrain_drift_ks": "ks",
    "otrain_drift_ks_critical": "ks_critical",
    "otrain_drifted": "drifted",
}
_FLAGS = [(str(flag.name), np.uint32(flag)) for flag in CutoutFlag]


class _Histogram:
    """Counts values per bucket, a batch at a time: one at a time, prometheus_client takes a lock for each."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0

    def add(self, values: Floats) -> None:
        self._counts += np.bincount(np.searchsorted(self._bounds, values), minlength=len(self._counts))
        self._sum += float(values.sum(dtype=np.float64))

    def row(self, *labels: str) -> Row:
        names = [*map(str, self._bounds.tolist()), "+Inf"]
        return labels, [*zip(names, np.cumsum(self._counts).tolist(), strict=True)], self._sum


@dataclass(slots=True, eq=False)
class _Done:
    """What one model has done."""

    results: "Counter[str]" = field(default_factory=lambda: Counter(dict.fromkeys(RESULTS, 0)))
    flags: "Counter[str]" = field(default_factory=lambda: Counter({name: 0 for name, _ in _FLAGS}))
    scores: _Histogram = field(default_factory=lambda: _Histogram(SCORE_BOUNDS))


@dataclass(frozen=True, slots=True, eq=False)
class Exporter:
    """The page on which Prometheus finds the figures, served in a thread until it is closed.

    Attributes
    ----------
    server, thread
        Of prometheus_client.
    """

    server: "WSGIServer"
    thread: threading.Thread

    @property
    def port(self) -> int:
        """On which it listens."""
        return self.server.server_port

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def __enter__(self) -> "Exporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Monitor:
    """Counts what a stream does, sees drift, and tells Prometheus.

    It has a registry of its own, so that several may live in one process. Several threads may use it at once.

    Parameters
    ----------
    card, identity, sha256
        Of the model, as of `Scorer`.
    window
        Scored alerts after which drift is looked for.

    Raises
    ------
    MissingExtraError
        When prometheus-client is not installed.
    UsageError
        When the window is empty.
    """

    def __init__(self, card: ModelCard, identity: str, sha256: str, window: int = WINDOW) -> None:
        self._client = _import_client()
        self._lock, self._window_rows = threading.Lock(), window
        self._by_model: dict[str, _Done] = {}
        self._latencies, self._batches = _Histogram(LATENCY_BOUNDS), _Histogram(BATCH_BOUNDS)
        self._reloads, self._disagreements = Counter(dict.fromkeys(RELOADS, 0)), 0
        self._lags: dict[tuple[str, int], int] = {}
        self.switch(card, identity, sha256)
        self._registry = self._client.CollectorRegistry()
        self._registry.register(self)

    def switch(self, card: ModelCard, identity: str, sha256: str) -> None:
        """Count for another model from now on, and look for drift from its reference."""
        reference = Reference.from_card(card)
        window = DriftWindow(reference, self._window_rows) if reference else None
        if window is None:
            log.info("the card of %s has no reference: drift is not looked for", identity)
        with self._lock:
            self._model, self._window = identity, window
            self._info = (card.name, card.version, sha256)
            self._drifts: dict[str, Drift] = {}
            self._done = self._by_model.setdefault(identity, _Done())

    def observe(self, flags: npt.NDArray[np.uint32], scores: Floats, latencies: Floats | None = None) -> None:
        """Count a batch of alerts that have been delivered.

        Parameters
        ----------
        flags
            `CutoutFlag`, uint32 (n,).
        scores
            (n,); NaN where an alert is unusable.
        latencies
            From the time stamp of each message to its delivery (s), (n,) or any other number of them; NaN where that
            is not known.
        """
        scored = scores[np.isfinite(scores)]
        flagged = {name: int(np.count_nonzero(flags & bit)) for name, bit in _FLAGS}
        with self._lock:
            self._done.results.update(scored=len(scored), unusable=len(scores) - len(scored))
            self._done.flags.update(flagged)
            self._done.scores.add(scored)
            self._batches.add(np.array([len(scores)], np.float64))
            if latencies is not None:
                # Clocks of two machines may disagree, and a sum that falls reads as a restart.
                self._latencies.add(np.maximum(latencies[np.isfinite(latencies)], 0))
            if self._window:
                self._note(self._window.add(scored))

    def observe_pixels(self, pixels: Floats, usable: npt.NDArray[np.bool_]) -> None:
        """Look at some raw pixels for drift, as `DriftWindow.add_pixels` does."""
        if window := self._window:
            window.add_pixels(pixels, usable)

    def count_dead_letters(self, count: int) -> None:
        """Count messages that held no alert to be scored."""
        with self._lock:
            self._done.results["dead_letter"] += count

    def count_reload(self, result: str) -> None:
        """Count a model that was to be replaced: ``switched`` or ``refused``."""
        with self._lock:
            self._reloads[result] += 1

    def count_disagreements(self, count: int) -> None:
        """Count alerts that the model and its shadow call otherwise."""
        with self._lock:
            self._disagreements += count

    def set_lags(self, lags: Mapping[tuple[str, int], int]) -> None:
        """Take note of how many messages wait in each (topic, partition) that is held now, and forget the others."""
        with self._lock:
            self._lags = dict(lags)

    def _note(self, drifts: Iterable[Drift]) -> None:
        """Keep what a window has shown, and log of each quantity that it begins to drift, or has come back."""
        for drift in drifts:
            before = self._drifts.get(drift.name)
            if drift.drifted != (before is not None and before.drifted):
                _log_change(self._model, drift)
            self._drifts[drift.name] = drift

    def text(self) -> str:
        """Give all figures in the text format of Prometheus."""
        text: bytes = self._client.generate_latest(self._registry)
        return text.decode()

    def serve(self, port: int, host: str = HOST) -> Exporter:
        """Serve the figures over HTTP, at /metrics.

        Parameters
        ----------
        port
            Where to listen; 0 for any that is free.
        host
            Address to listen on: by default, only this machine is answered.

        Returns
        -------
        Exporter
            To be closed.

        Raises
        ------
        UsageError
            When it cannot listen there.
        """
        try:
            return Exporter(*self._client.start_http_server(port, host, self._registry))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"metrics cannot be served on {host}:{port} ({why}): give another port") from None

    def collect(self) -> "list[Metric]":
        """Give all figures to prometheus_client."""
        core = self._client.core
        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        with self._lock:
            rows = self._rows()
        families = []
        for kind, name, text, labels in METRICS:
            family = kinds[kind](name, text, labels=labels)
            for values, *figures in rows[name]:
                family.add_metric(values, *figures)
            families.append(family)
        return families

    def _rows(self) -> dict[str, list[Row]]:
        models, drifts = self._by_model.items(), self._drifts.values()
        rows: dict[str, list[Row]] = {
            "otrain_alerts": [((model, each), n) for model, done in models for each, n in done.results.items()],
            "otrain_flags": [((model, each), n) for model, done in models for each, n in done.flags.items()],
            "otrain_score": [done.scores.row(model) for model, done in models],
            "otrain_latency_seconds": [self._latencies.row()],
            "otrain_batch_alerts": [self._batches.row()],
            "otrain_lag_messages": [((topic, str(partition)), n) for (topic, partition), n in self._lags.items()],
            "otrain_reloads": [((result,), n) for result, n in self._reloads.items()],
            "otrain_shadow_disagreements": [((), self._disagreements)],
            "otrain_model_info": [(self._info, 1)],
        }
        real = [drift.real for drift in drifts if drift.name == SCORE and math.isfinite(drift.real)]
        rows["otrain_real_fraction"] = [((self._model,), share) for share in real]
        for name, figure in _DRIFT_FIGURES.items():
            rows[name] = [((self._model, drift.name), float(getattr(drift, figure))) for drift in drifts]
        return rows


def _import_client() -> Any:
    try:
        import prometheus_client.core
    except ImportError:
        raise MissingExtraError("the monitor needs prometheus-client: pip install 'otrain[kafka]'") from None
    return prometheus_client


def _log_change(model: str, drift: Drift) -> None:
    level, change = (logging.WARNING, "has drifted from") if drift.drifted else (logging.INFO, "is back at")
    figures = (drift.psi, PSI_LARGE, drift.ks, drift.ks_critical, drift.rows)
    said = "%s %s the reference of %s: PSI %.3f (limit %g), KS %.3f (by chance up to %.3f), %d rows"
    log.log(level, said, drift.name, change, model, *figures)
