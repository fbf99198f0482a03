import json
import re
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from networks import make_card, make_model

from otrain_infer.cli import model as otrain_model
from otrain_infer.drift import (
    ALPHA,
    PSI_LARGE,
    SAMPLED_PIXELS,
    SCORE_TOLERANCE,
    DriftWindow,
    Reference,
    compare_scores,
    find_critical_distance,
    find_psi,
)
from otrain_infer.errors import UsageError

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def reference_of(scores, pixels=None, planes=("DIFF",)):
    """What `otrain_train.reference.make_reference` writes."""
    pixels = np.zeros((1, 1, 1, len(planes))) if pixels is None else pixels
    each = {plane: pixels[..., p][np.isfinite(pixels[..., p])] for p, plane in enumerate(planes)}
    return {
        "rows": len(scores),
        "levels": list(LEVELS),
        "scores": np.quantile(np.asarray(scores, np.float64), LEVELS).tolist(),
        "pixels": {plane: np.quantile(values.astype(np.float64), LEVELS).tolist() for plane, values in each.items()},
        "non_finite": {plane: 1 - each[plane].size / pixels[..., 0].size for plane in planes},
    }


def read(reference, planes=("DIFF",)):
    return Reference.from_card(make_card(planes, reference=reference))


def bathtub(rng, rows, real=0.5):
    """Scores of a good classifier: near 0 and near 1, and some between."""
    low, high = rng.beta(0.3, 3, rows), 1 - rng.beta(0.3, 3, rows)
    return np.where(rng.random(rows) < real, high, low).astype(np.float32)


def uniform(rng, rows):
    return rng.random(rows)


def with_ties(rng, rows, real=0.5):
    """Half of the scores are exactly 0 or 1."""
    scores = bathtub(rng, rows, real)
    return np.where(rng.random(rows) < 0.5, np.round(scores), scores)


def psi_by_hand(known, scores):
    """Row by row into bins, then the formula as it is in the books."""
    edges, levels = [-np.inf, *known["scores"], np.inf], [0, *known["levels"], 1]
    total = 0.0
    for (low, high), (begin, end) in zip(pairwise(edges), pairwise(levels), strict=True):
        found = sum(1 for score in scores if low < score <= high) / len(scores)
        expected = end - begin
        total += (found - expected) * np.log(found / expected)
    return total


@pytest.mark.parametrize("real", [0.5, 0.3])
def test_figures_are_those_found_by_hand(real):
    rng = np.random.default_rng(1)
    scores = rng.uniform(0, 1, 2000) ** (0.5 / real)
    known = reference_of(rng.uniform(0, 1, 3000))
    drift = compare_scores(read(known), scores)
    # The tolerance puts a few rows into the bin that makes less of a drift.
    assert drift.psi == pytest.approx(psi_by_hand(known, scores), abs=2e-3)
    by_hand = max(abs(np.mean(scores <= value) - level) for value, level in zip(known["scores"], LEVELS, strict=True))
    assert drift.ks == pytest.approx(by_hand, abs=3e-3)
    assert drift.ks <= by_hand
    assert drift.rows == 2000


def test_psi_and_critical_distance_are_those_of_the_books():
    assert find_psi(np.array([0.5]), np.array([0.25]), 0) == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(1.5))
    assert find_psi(np.array([0.5]), np.array([1.0]), 1e-4) == pytest.approx(
        0.5 * np.log(2) + (0.5 - 1e-4) * np.log(0.5 / 1e-4)
    )
    # 1.949 is in every table of the test of two samples, for 0.001.
    assert ALPHA == 0.001
    assert find_critical_distance(1000, 500) == pytest.approx(1.949 * np.sqrt(1500 / 500_000), rel=1e-3)
    assert find_critical_distance(1, 1) == 1


@pytest.mark.parametrize("draw", [uniform, bathtub, with_ties])
@pytest.mark.parametrize("rows", [100, 1000])
def test_false_alarms_are_rare(draw, rows):
    rng = np.random.default_rng(2)
    windows = 600
    drifts = [compare_scores(read(reference_of(draw(rng, 1024))), draw(rng, rows)) for _ in range(windows)]
    assert sum(drift.drifted for drift in drifts) == 0
    assert sum(drift.ks > drift.ks_critical for drift in drifts) <= 3  # 0.6 expected of each, at most
    # Yurdakul: as chi-square of 7 degrees of freedom; fewer where some values are the same.
    expected = 7 * (1 / rows + 1 / 1024)
    assert np.mean([drift.psi for drift in drifts]) < 1.1 * expected
    if draw is uniform:
        assert np.mean([drift.psi for drift in drifts]) > 0.8 * expected


@pytest.mark.parametrize("draw", [bathtub, with_ties])
@pytest.mark.parametrize("rows", [200, 5000])
def test_shifts_are_seen(draw, rows):
    rng = np.random.default_rng(3)
    reference = read(reference_of(draw(rng, 1024)))
    for scores in (draw(rng, rows, real=0.1), draw(rng, rows, real=0.9), rng.uniform(0.3, 0.6, rows), np.ones(rows)):
        drift = compare_scores(reference, scores)
        assert drift.drifted
        assert drift.psi >= PSI_LARGE
        assert drift.ks > drift.ks_critical


def test_a_certain_but_small_change_is_none():
    rng = np.random.default_rng(4)
    drift = compare_scores(read(reference_of(rng.uniform(0, 1, 100_000))), rng.uniform(0, 1, 100_000) ** 1.2)
    assert drift.ks > drift.ks_critical
    assert not drift.drifted


def with_real(known, scores, real, pixels=None, planes=("DIFF",)):
    """What the card of a calibrated model tells besides: of the rows that are real, by their labels."""
    below = [np.mean(scores[real] <= value) for value in known["scores"]]
    told = {"share": float(np.mean(real)), "scores": below, "pixels": {}, "non_finite": {}}
    for p, plane in enumerate(planes if pixels is not None else ()):
        values = pixels[real][..., p]
        told["pixels"][plane] = [np.mean(values[np.isfinite(values)] <= each) for each in known["pixels"][plane]]
        told["non_finite"][plane] = float(np.mean(~np.isfinite(values)))
    if pixels is None:
        told |= {"pixels": {"DIFF": known["levels"]}, "non_finite": known["non_finite"]}
    return known | {"real": told}


def calibrated(rng, rows, share=0.5):
    """Scores of a calibrated classifier of a stream of which half are real, in one with this share, and which are."""
    scores = rng.beta(0.2, 0.2, 40 * rows)
    real = rng.random(40 * rows) < scores
    kept = [np.flatnonzero(real)[: round(share * rows)], np.flatnonzero(~real)[: rows - round(share * rows)]]
    order = rng.permutation(np.concatenate(kept))
    return scores[order].astype(np.float32), real[order]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9])
def test_another_mix_of_real_and_bogus_is_no_drift(share):
    rng = np.random.default_rng(15)
    scores, real = calibrated(rng, 2000)
    known = reference_of(scores)
    found = calibrated(rng, 4000, share)[0]
    plain, mixed = compare_scores(read(known), found), compare_scores(read(with_real(known, scores, real)), found)
    assert plain.drifted == (share in (0.02, 0.1, 0.9))
    assert np.isnan(plain.real)
    assert not mixed.drifted
    assert mixed.psi < 0.05
    assert mixed.ks < mixed.ks_critical
    assert mixed.real == pytest.approx(share, abs=0.04)


def test_what_no_mix_explains_is_drift():
    rng = np.random.default_rng(16)
    scores, real = calibrated(rng, 2000)
    reference = read(with_real(reference_of(scores), scores, real))
    for found in (rng.uniform(0.3, 0.6, 500), np.full(500, 0.5), np.ones(500), 0.2 + 0.6 * scores):
        assert compare_scores(reference, found).drifted


def test_a_mix_makes_the_reference_worth_fewer_rows():
    rng = np.random.default_rng(17)
    scores, real = calibrated(rng, 2000)
    reference = read(with_real(reference_of(scores), scores, real))
    assert reference.rows_with_real(0.5) == pytest.approx(2000)
    assert reference.rows_with_real(0.0) == pytest.approx(1000)
    assert reference.rows_with_real(np.nan) == 2000
    drifts = [compare_scores(reference, calibrated(rng, 500, 0.05)[0]) for _ in range(50)]
    assert not any(drift.ks > drift.ks_critical for drift in drifts)


def test_pixels_are_compared_with_those_of_the_same_mix():
    rng = np.random.default_rng(18)

    def draw(rows, share):
        scores, real = calibrated(rng, rows, share)
        pixels = make_pixels(rng, rows)
        pixels[real] += 3
        pixels[real, :7] = np.nan
        return scores, real, pixels

    scores, real, pixels = draw(500, 0.5)
    known = reference_of(scores, pixels, planes := ("SCI", "DIFF"))
    for reference, drifted in ((known, True), (with_real(known, scores, real, pixels, planes), False)):
        window = DriftWindow(read(reference, planes), 500)
        scores, _, pixels = draw(500, 0.1)
        window.add_pixels(pixels, np.ones(500, np.bool_))
        drifts = window.add(scores)
        assert len(drifts) == 5
        assert any(drift.drifted for drift in drifts if drift.name != "score") == drifted
        assert all(np.isnan(drift.real) == drifted for drift in drifts)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_where_all_are_of_one_kind_there_is_no_mix_to_find(share):
    scores = np.linspace(0, 1, 500)
    known = with_real(reference_of(scores), scores, scores >= 0) | {}
    known["real"]["share"] = share
    drift = compare_scores(read(known), scores)
    assert np.isnan(drift.real)
    assert drift.psi == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_scores_that_are_all_the_same_in_both_bring_no_drift(value):
    drift = compare_scores(read(reference_of(np.full(500, value))), np.full(800, value))
    assert (drift.psi, drift.ks, drift.drifted) == (0, 0, False)


def test_a_peak_that_is_gone_is_seen():
    rng = np.random.default_rng(5)
    scores = np.where(rng.random(2000) < 0.6, 0.0, rng.random(2000))
    assert compare_scores(read(reference_of(scores)), rng.random(2000)).drifted


def test_what_another_machine_rounds_otherwise_is_no_drift():
    rng = np.random.default_rng(6)
    scores = np.concatenate([rng.uniform(0, 1e-9, 900), 1 - rng.uniform(0, 1e-9, 900), rng.random(200)])
    moved = np.clip(scores + rng.uniform(-0.9, 0.9, 2000) * SCORE_TOLERANCE, 0, 1)
    assert compare_scores(read(reference_of(scores)), moved).psi < 0.01


def test_outside_of_the_outermost_quantiles_nothing_is_claimed():
    scores = np.linspace(0.4, 0.6, 1001)
    far = np.where(scores < np.quantile(scores, 0.005), 0, np.where(scores > np.quantile(scores, 0.995), 1, scores))
    drift = compare_scores(read(reference_of(scores)), far)
    assert drift.psi == pytest.approx(0, abs=1e-4)
    assert drift.ks <= 0.002


def test_nan_is_left_out():
    rng = np.random.default_rng(7)
    reference, scores = read(reference_of(bathtub(rng, 500))), bathtub(rng, 500)
    holes = np.full(1000, np.nan, np.float32)
    holes[::2] = scores
    assert compare_scores(reference, holes) == compare_scores(reference, scores)
    nothing = compare_scores(reference, np.full(5, np.nan))
    assert nothing.rows == 0
    assert np.isnan(nothing.psi)
    assert not nothing.drifted


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"scores": [0.1, 0.2]},
        {"rows": 0},
        {"levels": [0.5, 0.5]},
        {"levels": [0.0, 1.0], "scores": [0.1, 0.2]},
        {"scores": [0.9] * 6 + [0.1]},
        {"scores": None},
        {"levels": "often"},
        {"pixels": []},
        {"real": {}},
        {"real": None},
        {"real": {"share": 0.5, "scores": [0.5, 0.1, 0.6, 0.7, 0.8, 0.9, 1.0], "pixels": {}, "non_finite": {}}},
    ],
)
def test_a_reference_that_tells_nothing_is_none(broken):
    whole = reference_of(np.linspace(0, 1, 50)) if len(broken) == 1 and "levels" not in broken else {}
    assert read(whole | broken if broken else {}) is None


def test_a_plane_without_finite_pixels_costs_only_itself():
    known = reference_of(np.linspace(0, 1, 50), np.ones((50, 2, 2, 2)), ("SCI", "DIFF"))
    known["pixels"]["SCI"] = [None] * 7
    reference = read(json.loads(json.dumps(known)), ("SCI", "DIFF"))
    assert list(reference.pixels) == ["DIFF"]


def test_a_window_gives_what_its_scores_give_and_begins_anew():
    rng = np.random.default_rng(8)
    reference = read(reference_of(bathtub(rng, 500)))
    window = DriftWindow(reference, rows=300)
    for _ in range(2):
        scores = bathtub(rng, 320)
        scores[::16] = np.nan
        assert window.add(scores[:100]) == ()
        assert window.add(scores[100:200]) == ()
        assert window.add(scores[200:]) == (compare_scores(reference, scores),)
    with pytest.raises(UsageError, match="0 rows"):
        DriftWindow(reference, 0)


def make_pixels(rng, rows, planes=2, sky=0.0):
    pixels = rng.normal(sky, 1, (rows, 21, 21, planes)).astype(np.float32)
    pixels[:, 8:13, 8:13] += 20
    pixels[rng.random(pixels.shape) < 0.02] = np.nan
    return pixels


def window_of_pixels(rng, rows=300):
    reference = read(reference_of(bathtub(rng, 400), make_pixels(rng, 400), ("SCI", "DIFF")), ("SCI", "DIFF"))
    return DriftWindow(reference, rows), bathtub(rng, rows)


def test_pixels_are_compared_too():
    rng = np.random.default_rng(9)
    window, scores = window_of_pixels(rng)
    for batch in np.array_split(make_pixels(rng, 300), 23):
        window.add_pixels(batch, np.ones(len(batch), np.bool_))
    drifts = {drift.name: drift for drift in window.add(scores)}
    assert list(drifts) == ["score", "pixels_SCI", "non_finite_SCI", "pixels_DIFF", "non_finite_DIFF"]
    assert not any(drift.drifted for drift in drifts.values())
    # Places are looked at alike: the source in the middle takes its due part.
    assert all(drift.psi < 0.01 for name, drift in drifts.items() if name != "score")
    assert {drift.rows for drift in drifts.values()} == {300}


def test_a_plane_that_changes_is_named():
    rng = np.random.default_rng(10)
    window, scores = window_of_pixels(rng)
    pixels = make_pixels(rng, 300)
    pixels[..., 0] += 3
    pixels[:, :10, :, 1] = np.nan
    window.add_pixels(pixels, np.ones(300, np.bool_))
    drifted = {drift.name for drift in window.add(scores) if drift.drifted}
    assert {"pixels_SCI", "non_finite_DIFF"} <= drifted
    assert "non_finite_SCI" not in drifted
    assert [drift.name for drift in window.add(scores)] == ["score"]  # no pixels were given of this window


def test_rows_that_are_unusable_do_not_count():
    rng = np.random.default_rng(11)
    window, scores = window_of_pixels(rng)
    pixels, usable = make_pixels(rng, 600), np.arange(600) % 2 == 0
    pixels[~usable] = np.nan
    window.add_pixels(pixels, usable)
    assert not any(drift.drifted for drift in window.add(scores))


def test_every_place_of_a_plane_is_looked_at_in_turn():
    class Looking:
        def __init__(self):
            self.seen = []

        def add(self, values):
            self.seen += values.tolist()

    window = DriftWindow(read(reference_of(np.linspace(0, 1, 50), np.ones((50, 2, 2, 1)))), 10)
    window._planes = {"DIFF": Looking()}
    places = np.arange(61 * 61, dtype=np.float32).reshape(1, 61, 61, 1)
    for rows in (1, 2, 5) * 100:
        window.add_pixels(np.repeat(places, rows, axis=0), np.ones(rows, np.bool_))
    counts = np.bincount(np.array(window._planes["DIFF"].seen, int), minlength=61 * 61)
    assert counts.min() > 0
    assert counts.max() - counts.min() <= 1
    assert counts.sum() == pytest.approx(800 * SAMPLED_PIXELS, rel=0.1)


def test_threads_lose_nothing():
    rng = np.random.default_rng(12)
    reference = read(reference_of(bathtub(rng, 500)))
    window, full = DriftWindow(reference, 100), []

    def work():
        for _ in range(50):
            full.extend(window.add(np.full(10, 0.5)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drift.rows for drift in full] == [100] * 20


@pytest.fixture(scope="module")
def model_and_scores(tmp_path_factory):
    rng = np.random.default_rng(13)
    path = tmp_path_factory.mktemp("drift") / "m.onnx"
    path.write_bytes(make_model(make_card(reference=reference_of(bathtub(rng, 1000)))))
    return str(path), bathtub(rng, 400), bathtub(rng, 400, real=0.05)


def write_scores(path, scores, **columns):
    columns = {"label1": [str(score) for score in scores]} | columns
    lines = [" ".join(row) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(["# " + " ".join(columns), *lines, ""]))
    return str(path)


def test_the_command_tells_of_drift(model_and_scores, tmp_path, capsys):
    model, same, other = model_and_scores
    same[::40] = np.nan
    steady = write_scores(tmp_path / "same.dat", same)
    assert otrain_model(["drift", steady, "--model", model]) == 0
    line = r"steady: PSI 0\.0\d\d \(small\), KS 0\.0\d\d \(by chance up to 0\.116\), 390 scores, (\S+) rows 1-400\n"
    assert re.fullmatch(line, capsys.readouterr().out)[1] == steady
    moved = write_scores(tmp_path / "other.dat", [*same, *other])
    assert otrain_model(["drift", steady, moved, "--window", "400", "--model", model]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["steady", "steady", "DRIFTED"]
    assert "(large)" in lines[2]
    assert lines[2].endswith(f"400 scores, {moved} rows 401-800")


def test_the_command_tells_of_another_model(model_and_scores, tmp_path, capsys):
    model, same, _ = model_and_scores
    table = write_scores(tmp_path / "t.dat", same, model=["tiny-0@12345678"] * len(same))
    assert otrain_model(["drift", table, "--model", model]) == 0
    assert capsys.readouterr().out.startswith(f"{table}: scored by tiny-0@12345678, not by tiny-1@")


def test_of_a_few_rows_the_command_does_not_say_that_they_are_steady(model_and_scores, tmp_path, capsys):
    table = write_scores(tmp_path / "t.dat", [0.5] * 3)
    assert otrain_model(["drift", table, "--model", model_and_scores[0]]) == 0
    assert capsys.readouterr().out.startswith("too few to tell: PSI ")


def test_the_command_tells_how_many_are_real(tmp_path, capsys):
    rng = np.random.default_rng(19)
    scores, real = calibrated(rng, 1000)
    model = tmp_path / "m.onnx"
    model.write_bytes(make_model(make_card(reference=with_real(reference_of(scores), scores, real))))
    table = write_scores(tmp_path / "t.dat", calibrated(rng, 1000, 0.1)[0])
    assert otrain_model(["drift", table, "--model", str(model)]) == 0
    said = re.search(r"^steady: .*, 1000 scores, about (\S+) % of them real, ", capsys.readouterr().out)
    assert float(said[1]) == pytest.approx(10, abs=4)


@pytest.mark.parametrize("content", ["# label1 flags\n", "# label1 flags\nnan 1\nnan 1\n"])
def test_a_table_without_scores_has_not_drifted(model_and_scores, tmp_path, capsys, content):
    (tmp_path / "empty.dat").write_text(content)
    assert otrain_model(["drift", str(tmp_path / "empty.dat"), "--model", model_and_scores[0]]) == 0
    assert capsys.readouterr().out.startswith("no scores, ")


@pytest.mark.parametrize(
    ("content", "window", "said"),
    [
        (None, "10", "cannot be read (No such file or directory)"),
        ("# a b\n1 2\n", "10", "no column label1"),
        ("# label1\nreal\n", "10", "other things than scores"),
        ("# label1\n0.5\n5\n", "10", "other things than scores"),
        ("# label1\n-0.1\n", "10", "other things than scores"),
        ("# label1\n0.5\n", "0", "a window of 0 rows"),
    ],
)
def test_the_command_refuses_in_one_line(model_and_scores, tmp_path, capsys, content, window, said):
    if content:
        (tmp_path / "t.dat").write_text(content)
    assert otrain_model(["drift", str(tmp_path / "t.dat"), "--model", model_and_scores[0], "--window", window]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_model_without_a_reference_is_refused(tiny_path, tmp_path, capsys):
    table = write_scores(tmp_path / "t.dat", [0.5])
    assert otrain_model(["drift", table, "--model", str(tiny_path)]) == 2
    assert "carries no reference" in capsys.readouterr().err


def test_the_command_without_a_model_takes_the_embedded_one(tmp_path):
    rng = np.random.default_rng(14)
    table = write_scores(tmp_path / "t.dat", rng.uniform(0.3, 0.6, 500))
    command = [sys.executable, "-c", "import sys; from otrain_infer.cli import model; sys.exit(model())"]
    ended = subprocess.run([*command, "drift", table], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout.startswith("DRIFTED: ")
