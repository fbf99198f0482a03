import gc
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cutout_files import draw, write_cutout
from networks import make_card, make_model

from otrain_infer import Scorer, read_cutouts
from otrain_infer.errors import DeviceError, MissingExtraError, ModelError, UsageError
from otrain_infer.scorer import correct_for_ratio
from otrain_infer.session import installed_runtimes


@pytest.fixture(scope="module")
def pixels():
    return np.stack([draw(seed) for seed in range(300)])[..., np.newaxis]


@pytest.fixture(scope="module")
def expected(scorer, pixels):
    return scorer.score_pixels(pixels)


def test_a_scorer_that_is_used_no_more_lets_go_of_its_memory_at_once(tiny, folder):
    scorer = Scorer(tiny, threads=2)
    gc.collect()
    gc.disable()
    try:
        list(scorer.score_sources(str(folder)))
        scorer.score_pixels(np.zeros((3, *scorer.card.shape)))
        assert scorer.sha256
        gone = weakref.ref(scorer)
        del scorer
        assert gone() is None
    finally:
        gc.enable()


def test_scores_are_probabilities_that_differ(expected):
    assert expected.dtype == np.float32
    assert expected.shape == (300,)
    assert ((expected >= 0) & (expected <= 1)).all()
    assert len(np.unique(expected)) > 250


def test_a_score_depends_on_its_row_alone(tiny, pixels, expected):
    for batch_size in (1, 3, 64, 300):
        assert np.array_equal(Scorer(tiny, batch_size=batch_size).score_pixels(pixels), expected)


def test_the_embedded_model_scores_to_the_bit_in_any_batch():
    scorer = Scorer()
    pixels = np.stack([draw(seed, scorer.card.size) for seed in range(70)])[..., np.newaxis]
    expected = scorer.score_pixels(pixels)
    for batch_size in (1, 7, 64):
        assert np.array_equal(Scorer(batch_size=batch_size).score_pixels(pixels), expected)


def test_threads_inside_and_outside(tiny, pixels, expected):
    shared = Scorer(tiny, threads=3)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(shared.score_pixels, [pixels] * 12):
            assert np.array_equal(found, expected)


def test_unusable_rows_are_nan_and_change_no_other(scorer, pixels, expected):
    spoilt = pixels.copy()
    spoilt[5], spoilt[64], spoilt[299] = np.nan, 3.0, np.inf
    found = scorer.score_pixels(spoilt)
    assert np.flatnonzero(np.isnan(found)).tolist() == [5, 64, 299]
    usable = np.isfinite(found)
    assert np.array_equal(found[usable], expected[usable])


def test_flags_of_cutouts_rule(scorer, folder):
    (folder / "c5.fits").write_text("no FITS file")
    cutouts = read_cutouts(folder, card=scorer.card)
    scores = scorer.score(cutouts)
    assert np.isnan(scores).tolist() == [row == 5 for row in range(10)]
    assert np.array_equal(scores, scorer.score_pixels(cutouts.pixels), equal_nan=True)


def test_sources_are_scored_as_pixels_are(tiny, tmp_path):
    paths = [write_cutout(tmp_path / f"{seed}.fits", seed) for seed in range(300)]
    scorer = Scorer(tiny, threads=2)
    parts = list(scorer.score_sources(paths))
    assert [name for cutouts, _ in parts for name in cutouts.names] == paths
    assert all(cutouts.pixels.size == 0 for cutouts, _ in parts)
    everything = read_cutouts(paths, card=scorer.card)
    assert np.array_equal(np.concatenate([scores for _, scores in parts]), scorer.score(everything))


def test_no_rows(scorer):
    assert scorer.score_pixels(np.empty((0, 64, 64, 1), np.float32)).shape == (0,)


def test_any_real_type_and_order_of_memory(scorer, pixels, expected):
    assert np.array_equal(scorer.score_pixels(pixels.astype(">f8")), expected)
    assert np.array_equal(scorer.score_pixels(np.asfortranarray(pixels)), expected)
    untouchable = np.frombuffer(b"." + pixels.tobytes(), np.uint8)[1:].view(np.float32).reshape(pixels.shape)
    assert not untouchable.flags.writeable
    assert np.array_equal(scorer.score_pixels(untouchable), expected)


@pytest.mark.parametrize("pixels", [None, [[1, 2]], np.full((1, 64, 64, 1), "a"), np.zeros((1, 64, 64, 1), complex)])
def test_what_is_no_array_of_numbers_is_said(scorer, pixels):
    with pytest.raises(UsageError, match="pixels"):
        scorer.score_pixels(pixels)


def test_a_huge_batch_size_costs_no_memory(tiny, pixels, expected):
    assert np.array_equal(Scorer(tiny, batch_size=10**9).score_pixels(pixels), expected)


def test_a_wrong_shape_is_said(scorer):
    with pytest.raises(UsageError, match=r"takes pixels of shape \(n, 64, 64, 1\), not \(2, 63, 63, 1\)"):
        scorer.score_pixels(np.zeros((2, 63, 63, 1), np.float32))


def test_pickling_needs_no_file(tmp_path, tiny, pixels, expected):
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny)
    packed = pickle.dumps(Scorer(path, threads=2))
    path.unlink()
    copy = pickle.loads(packed)  # noqa: S301
    assert copy.threads == 2
    assert np.array_equal(copy.score_pixels(pixels), expected)


def score_some(scorer, pixels):
    return scorer.score_pixels(pixels)


@pytest.mark.skipif(sys.platform != "linux", reason="fork is only sure on Linux")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes(method, tiny, pixels, expected):
    scorer = Scorer(tiny, threads=2)
    scorer.score_pixels(pixels)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for found in pool.starmap(score_some, [(scorer, pixels)] * 2):
            assert np.array_equal(found, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="fork is only sure on Linux")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.timeout(240)
def test_a_forked_child_may_go_on_with_its_parents_scorer(tiny, pixels, expected, folder):
    scorer = Scorer(tiny, threads=2)
    scorer.score_pixels(pixels)
    child = os.fork()
    if child == 0:
        same = np.array_equal(scorer.score_pixels(pixels), expected)
        ((cutouts, scores),) = scorer.score_sources(folder)
        os._exit(0 if same and len(cutouts) == np.isfinite(scores).sum() == 10 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(scorer.score_pixels(pixels), expected)


MEMORY = """
import resource, sys
import numpy as np
from otrain_infer import Scorer
scorer = Scorer(sys.argv[1])
row = np.random.default_rng(0).normal(size=(1, 64, 64, 1)).astype(np.float32)
peaks = []
for n in (10_000, 40_000):
    scorer.score_pixels(np.broadcast_to(row, (n, 64, 64, 1)))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(peaks[1] - peaks[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
def test_memory_does_not_grow_with_the_rows(tiny_path):
    done = subprocess.run([sys.executable, "-c", MEMORY, tiny_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 4  # MiB; 30,000 cutouts are 470


def test_paths_are_not_cutouts(scorer, folder):
    with pytest.raises(UsageError, match="score_sources takes paths"):
        scorer.score([str(folder)])


def test_a_scorer_tells_who_it_is(scorer):
    assert scorer.identity == f"tiny-1@{scorer.sha256[:8]}"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"not a model", "is not an ONNX model"),
        (make_model(text=""), "carries no card"),
        (make_model(text="{"), "not readable"),
        (make_model(text='{"format": "otrain-card-7"}'), "format 'otrain-card-7'"),
        (make_model(text=make_card(size=(63, 63)).to_json()), "its tensors"),
        (make_model(text=make_card(planes=("SCI", "REF")).to_json()), "its tensors"),
        (make_model(inner="input_1"), "its tensors"),
        (make_model(outer="Identity:0"), "its tensors"),
        ("nowhere.onnx", "cannot be read"),
    ],
)
def test_models_that_are_refused(model, said):
    with pytest.raises(ModelError, match=said) as caught:
        Scorer(model)
    assert "\n" not in str(caught.value)


def test_a_card_with_more_to_it_is_refused(tiny):
    content = json.loads(make_card().to_json()) | {"brightness": 3}
    with pytest.raises(ModelError, match="incomplete or damaged"):
        Scorer(make_model(text=json.dumps(content)))


@pytest.mark.parametrize(
    "wrong", [{"threads": 0}, {"batch_size": 0}, {"device": "tpu"}, {"device": "cpu:1"}, {"device": "cuda:x"}]
)
def test_arguments_that_make_no_sense(tiny, wrong):
    with pytest.raises(UsageError):
        Scorer(tiny, **wrong)


@pytest.mark.skipif(installed_runtimes() == ["onnxruntime-gpu"], reason="this runtime is for CUDA")
def test_cuda_never_falls_back_in_silence(tiny):
    with pytest.raises(DeviceError, match="device cuda cannot be had"):
        Scorer(tiny, device="cuda")
    assert Scorer(tiny, device="auto").device == "cpu"


def test_without_a_runtime_one_sentence_says_what_to_install(tiny_path):
    code = "import sys; sys.modules['onnxruntime'] = None; from otrain_infer import Scorer; Scorer(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, tiny_path], capture_output=True, text=True, check=False)
    assert "MissingExtraError" in done.stderr
    assert "pip install 'otrain[cpu]'" in done.stderr
    assert issubclass(MissingExtraError, ImportError)


def test_the_ratio_corrects_by_bayes():
    scores = np.array([0.0, 0.2, 0.5, 0.9, 1.0, np.nan], np.float32)
    found = correct_for_ratio(scores, 0.1)
    odds = scores[1:4] / (1 - scores[1:4]) * 0.1
    np.testing.assert_allclose(found[1:4], odds / (1 + odds), rtol=1e-6)
    assert found[0] == 0
    assert found[4] == 1
    assert np.isnan(found[5])
    assert correct_for_ratio(scores, 1) is scores
    for extreme in (1e-50, 1e50):
        assert np.isfinite(correct_for_ratio(scores[:5], extreme)).all()


@pytest.mark.parametrize("ratio", [0, -1, np.nan, np.inf])
def test_a_ratio_that_makes_no_sense(ratio):
    with pytest.raises(UsageError, match="above 0"):
        correct_for_ratio(np.ones(1, np.float32), ratio)


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_the_runtime_reports_to_nobody_unless_the_user_says_so(given, kept):
    environment = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key}
    environment |= {"ORT_DISABLE_TELEMETRY": given} if given else {}
    code = "import os; from otrain_infer import Scorer; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == kept
