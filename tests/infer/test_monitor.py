import logging
import re
import socket
import sys
import threading
import urllib.request

import numpy as np
import pytest
from networks import make_card

from otrain_infer.drift import compare_scores
from otrain_infer.errors import MissingExtraError, UsageError
from otrain_infer.flags import CutoutFlag
from otrain_infer.monitor import LATENCY_BOUNDS, METRICS, SCORE_BOUNDS, Monitor

parser = pytest.importorskip("prometheus_client.parser")

MODEL, OTHER = "tiny-1@12345678", "tiny-2@9abcdef0"
LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]
REFERENCE = {
    "rows": 1000,
    "levels": LEVELS,
    "scores": LEVELS,
    "pixels": {"DIFF": [-1.3, -0.7, 0.0, 0.7, 1.3]},
    "non_finite": {"DIFF": 0.0},
}


@pytest.fixture
def monitor():
    return make_monitor()


def make_monitor(**fields):
    return Monitor(make_card(**fields), MODEL, "12345678" * 8, window=1000)


@pytest.fixture
def logged():
    """What the monitor logs, whoever else has configured logging in this process."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("otrain_infer.monitor")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def read(text):
    """Sample and labels -> value."""
    samples = [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    return found


def value(monitor, name, **labels):
    return read(monitor.text())[name, *sorted(labels.items())]


def observe(monitor, scores, latencies=None):
    monitor.observe(np.zeros(len(scores), np.uint32), np.asarray(scores, np.float32), latencies)


def test_alerts_and_flags_are_counted(monitor):
    flags = np.array([0, CutoutFlag.EDGE | CutoutFlag.PADDED, CutoutFlag.UNREADABLE, CutoutFlag.EDGE], np.uint32)
    monitor.observe(flags, np.array([0.2, 0.9, np.nan, 0.4], np.float32))
    monitor.observe(flags[:2], np.array([0.2, 0.9], np.float32))
    monitor.observe(flags[:0], np.zeros(0, np.float32), np.zeros(0))
    monitor.count_dead_letters(3)
    for result, count in (("scored", 5), ("unusable", 1), ("dead_letter", 3)):
        assert value(monitor, "otrain_alerts_total", model=MODEL, result=result) == count
    counts = {flag: value(monitor, "otrain_flags_total", model=MODEL, flag=flag.name) for flag in CutoutFlag}
    assert {flag: count for flag, count in counts.items() if count} == {
        CutoutFlag.EDGE: 3,
        CutoutFlag.PADDED: 2,
        CutoutFlag.UNREADABLE: 1,
    }


@pytest.mark.parametrize(
    ("name", "bounds"), [("otrain_score", SCORE_BOUNDS), ("otrain_latency_seconds", LATENCY_BOUNDS)]
)
def test_histograms_are_those_of_prometheus_client(monitor, name, bounds):
    from prometheus_client import CollectorRegistry, Histogram

    rng = np.random.default_rng(1)
    values = np.concatenate([rng.random(200).astype(np.float32), [0, 1, 0.5], bounds]).clip(0, 1)
    registry = CollectorRegistry()
    theirs = Histogram(name, "One at a time.", buckets=bounds, registry=registry)
    for each in values:
        theirs.observe(each)
    for part in np.array_split(values, 7):
        monitor.observe(np.zeros(len(part), np.uint32), part, part)
    ours = read(monitor.text())
    labels = [("model", MODEL)] if name == "otrain_score" else []
    for sample in (sample for family in registry.collect() for sample in family.samples):
        if not sample.name.endswith("_created"):
            key = (sample.name, *sorted([*sample.labels.items(), *labels]))
            assert ours[key] == pytest.approx(sample.value, rel=1e-12)


def test_latencies_that_make_no_sense_take_nothing_away(monitor):
    observe(monitor, [0.5] * 4, np.array([-3.0, np.nan, 0.2, 4000.0]))
    assert value(monitor, "otrain_latency_seconds_count") == 3
    assert value(monitor, "otrain_latency_seconds_sum") == 4000.2
    assert value(monitor, "otrain_latency_seconds_bucket", le="0.01") == 1
    assert value(monitor, "otrain_latency_seconds_bucket", le="1800.0") == 2


def test_everything_else_is_counted_too(monitor):
    observe(monitor, [0.5] * 20)
    monitor.count_reload("refused")
    monitor.count_disagreements(2)
    monitor.set_lags({("ztf", 0): 7, ("ztf", 1): 9})
    monitor.set_lags({("ztf", 1): 5})
    samples = read(monitor.text())
    assert samples["otrain_batch_alerts_bucket", ("le", "16.0")] == 0
    assert samples["otrain_batch_alerts_bucket", ("le", "64.0")] == 1
    assert samples["otrain_reloads_total", ("result", "refused")] == 1
    assert samples["otrain_reloads_total", ("result", "switched")] == 0
    assert samples["otrain_shadow_disagreements_total",] == 2
    lags = {key[1:]: lag for key, lag in samples.items() if key[0] == "otrain_lag_messages"}
    assert lags == {(("partition", "1"), ("topic", "ztf")): 5}


def test_names_follow_the_conventions(monitor):
    families = {family.name: family for family in parser.text_string_to_metric_families(monitor.text())}
    assert list(families) == [name for _, name, *_ in METRICS]
    for kind, name, text, _ in METRICS:
        assert re.fullmatch(r"otrain_[a-z0-9_]+(?<!_total)", name)
        assert re.fullmatch(r"[A-Z1].*[^.]\.", text)
        assert ". " not in text
        assert (families[name].type, families[name].documentation) == (kind, text)


def test_a_model_that_is_replaced_keeps_its_counts(monitor, logged):
    observe(monitor, [0.5] * 3)
    monitor.switch(make_card(reference=REFERENCE), OTHER, "ab" * 32)
    observe(monitor, np.linspace(0, 1, 1000))
    samples = read(monitor.text())
    for model, count in ((MODEL, 3), (OTHER, 1000)):
        assert samples["otrain_alerts_total", ("model", model), ("result", "scored")] == count
    infos = [dict(key[1:]) for key in samples if key[0] == "otrain_model_info"]
    assert infos == [{"name": "tiny", "version": "1", "sha256": "ab" * 32}]
    assert samples["otrain_drifted", ("model", OTHER), ("quantity", "score")] == 0
    monitor.switch(make_card(), MODEL, "12345678" * 8)
    observe(monitor, [0.5])
    assert value(monitor, "otrain_alerts_total", model=MODEL, result="scored") == 4
    assert not any(key[0] == "otrain_drifted" for key in read(monitor.text()))


def test_the_fraction_that_is_real_is_told_where_the_card_tells_the_two_kinds_apart():
    levels = np.array(REFERENCE["levels"])
    real = {"share": 0.5, "scores": (levels**2).tolist(), "pixels": {"DIFF": LEVELS}, "non_finite": {"DIFF": 0}}
    monitor = make_monitor(reference=REFERENCE | {"real": real})
    observe(monitor, 1 - np.sqrt(np.linspace(0, 1, 1000)))  # as those of bogus ones: levels 1 - (1 - x)**2
    assert value(monitor, "otrain_real_fraction", model=MODEL) < 0.05
    assert value(monitor, "otrain_drifted", model=MODEL, quantity="score") == 0
    plain = make_monitor(reference=REFERENCE)
    observe(plain, np.linspace(0, 1, 1000))
    assert not any(key[0] == "otrain_real_fraction" for key in read(plain.text()))


def test_drift_is_logged_once_until_it_has_come_back(logged):
    monitor = make_monitor(reference=REFERENCE)
    steady, moved = np.linspace(0, 1, 500), np.linspace(0, 0.3, 500)
    seen = []
    for scores in (steady, moved, moved, steady, steady, moved):
        for _ in range(2):
            observe(monitor, scores)
        seen.append(value(monitor, "otrain_drifted", model=MODEL, quantity="score"))
    assert seen == [0, 1, 1, 0, 0, 1]
    told = [(record.levelname, record.getMessage()) for record in logged]
    assert [level for level, _ in told] == ["WARNING", "INFO", "WARNING"]
    assert told[0][1].startswith(f"score has drifted from the reference of {MODEL}: PSI ")
    assert told[1][1].startswith(f"score is back at the reference of {MODEL}: PSI 0.00")
    drift = compare_scores(monitor._window._reference, np.tile(moved.astype(np.float32), 2))
    for figure in ("psi", "ks", "ks_critical"):
        assert value(monitor, f"otrain_drift_{figure}", model=MODEL, quantity="score") == getattr(drift, figure)


def test_drift_of_pixels_is_seen(logged):
    monitor = make_monitor(reference=REFERENCE)
    pixels = np.random.default_rng(2).normal(5, 1, (1000, 8, 8, 1)).astype(np.float32)
    monitor.observe_pixels(pixels, np.ones(1000, np.bool_))
    observe(monitor, np.linspace(0, 1, 1000))
    for quantity, drifted in (("score", 0), ("pixels_DIFF", 1), ("non_finite_DIFF", 0)):
        assert value(monitor, "otrain_drifted", model=MODEL, quantity=quantity) == drifted
    assert len(logged) == 1


def test_a_card_without_a_reference_is_said_once(logged):
    monitor = make_monitor()
    monitor.observe_pixels(np.zeros((1, 8, 8, 1), np.float32), np.ones(1, np.bool_))
    for _ in range(3):
        observe(monitor, np.linspace(0, 0.1, 1000))
    assert [(record.levelname, record.getMessage()) for record in logged] == [
        ("INFO", f"the card of {MODEL} has no reference: drift is not looked for")
    ]
    assert not any(key[0].startswith("otrain_drift") for key in read(monitor.text()))


def test_a_batch_costs_the_same_calls_however_many_alerts_it_holds():
    def calls(rows):
        monitor, count = make_monitor(reference=REFERENCE), 0
        scores = np.linspace(0, 1, rows)

        def note(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            observe(monitor, scores, scores)
        finally:
            sys.setprofile(None)
        return count

    assert calls(10) == calls(900) < 200


def test_threads_lose_nothing(monitor):
    def work():
        for _ in range(100):
            observe(monitor, [0.5, np.nan], np.array([0.1]))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        read(monitor.text())
    for thread in threads:
        thread.join()
    assert value(monitor, "otrain_alerts_total", model=MODEL, result="scored") == 400
    assert value(monitor, "otrain_alerts_total", model=MODEL, result="unusable") == 400
    assert value(monitor, "otrain_latency_seconds_count") == 400


def test_figures_are_served_on_the_loopback_until_closed(monitor):
    observe(monitor, [0.5, 0.6])
    with monitor.serve(0) as exporter:
        assert exporter.server.server_address[0] == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert answer.read().decode() == monitor.text()
    assert not exporter.thread.is_alive()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", exporter.port), timeout=1):
        pass


def test_several_monitors_live_in_one_process(monitor):
    other = make_monitor()
    observe(other, [0.5])
    assert value(monitor, "otrain_alerts_total", model=MODEL, result="scored") == 0
    with monitor.serve(0) as one, other.serve(0) as two:
        assert one.port != two.port


def test_a_port_in_use_is_said_in_one_sentence(monitor):
    with monitor.serve(0) as exporter, pytest.raises(UsageError) as said:
        monitor.serve(exporter.port)
    assert str(said.value) == (
        f"metrics cannot be served on 127.0.0.1:{exporter.port} (Address already in use): give another port"
    )


@pytest.mark.parametrize(("port", "host"), [(70000, "127.0.0.1"), (0, "192.0.2.1")])
def test_a_place_that_cannot_be_had_is_refused(monitor, port, host):
    with pytest.raises(UsageError, match="cannot be served on"):
        monitor.serve(port, host)


def test_without_prometheus_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'otrain\[kafka\]'"):
        make_monitor()
