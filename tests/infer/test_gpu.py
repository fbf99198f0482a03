"""What is done for GPUs, as far as it can be tested without one: the same sessions and buffers, on the processor."""

import threading

import numpy as np
import onnxruntime
import pytest
from networks import make_card, make_ensemble, make_model, make_two_precisions

from otrain_infer import Scorer
from otrain_infer.card import INPUT, OUTPUT, PRECISE, SPREAD
from otrain_infer.errors import DeviceError, UsageError
from otrain_infer.gpu import BoundSessions, batch_size_for, free_memory, load_libraries, lock_pages


def cutouts(n, seed=0):
    return np.random.default_rng(seed).normal(0, 1 / 64, (n, 64, 64, 1)).astype(np.float32)


def bound(content, number=2):
    sessions = [(onnxruntime.InferenceSession(content), 0) for _ in range(number)]
    return BoundSessions(sessions, onnxruntime, "cpu"), sessions[0][0]


def test_bound_sessions_compute_what_sessions_compute():
    lanes, session = bound(make_ensemble())
    for n in (64, 64, 10, 1, 64):
        feed = {INPUT: cutouts(n, seed=n)}
        for outputs in ([OUTPUT, SPREAD], [OUTPUT]):
            found = lanes.run(outputs, feed)
            assert len(found) == len(outputs)
            for each, expected in zip(found, session.run(outputs, feed), strict=True):
                np.testing.assert_array_equal(each, expected)


def test_the_choice_of_a_precision_gets_through():
    lanes, session = bound(make_two_precisions(), 1)
    for precisely in (True, False):
        feed = {INPUT: cutouts(20), PRECISE: np.array(precisely)}
        np.testing.assert_array_equal(lanes.run([OUTPUT], feed)[0], session.run([OUTPUT], feed)[0])


def test_more_threads_than_sessions_do_not_mix_up_their_cutouts():
    lanes, session = bound(make_model())
    wrong = []

    def work(seed):
        for n in (30, 30, 7):
            feed = {INPUT: cutouts(n, seed=seed)}
            if not np.array_equal(lanes.run([OUTPUT], feed)[0], session.run([OUTPUT], feed)[0]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_batches_fit_in_the_memory():
    assert batch_size_for((64, 64, 1), None) == 1024
    sizes = [batch_size_for((64, 64, 1), gigabytes << 30) for gigabytes in (0, 1, 8, 24, 80, 141)]
    assert sizes == [64, 64, 512, 1024, 1024, 1024]
    assert batch_size_for((256, 256, 3), 8 << 30) == 64


def test_memory_that_no_driver_tells_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert free_memory(0) is None


def test_libraries_that_are_not_there_are_not_told_of_among_results(capsys):
    # onnxruntime for processors has the same function, which finds no library of CUDA and prints that.
    load_libraries(onnxruntime)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(free_memory(0) is not None, reason="there is a GPU here")
def test_without_cuda_no_pages_are_locked_and_nothing_is_lost():
    pixels = cutouts(10)
    before = pixels.copy()
    lock_pages(pixels)
    lock_pages(np.empty((0, 64, 64, 1), np.float32))
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("device", ["cuda:", "cuda:0,", "cuda:0,x", "cuda:-1", "auto:0", "cpu:0", "gpu"])
def test_devices_that_make_no_sense_are_refused(tiny, device):
    with pytest.raises(UsageError, match=r"take cpu, cuda, cuda:N, cuda:N,M,\.\.\. or auto"):
        Scorer(tiny, device=device)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is here")
def test_several_gpus_are_not_replaced_by_a_processor(tiny):
    with pytest.raises(DeviceError, match="device cuda:0,1 cannot be had"):
        Scorer(tiny, device="cuda:0,1")


@pytest.mark.skipif(free_memory(0) is None, reason="there is no GPU here")
def test_a_gpu_scores_as_a_processor():
    content = make_model(make_card())
    rows = np.random.default_rng(1).normal(size=(3000, 64, 64, 1)).astype(np.float32)
    expected = Scorer(content).score_pixels(rows)
    for threads, size in ((1, None), (4, None), (4, 100), (1, 1)):
        found = Scorer(content, device="cuda", threads=threads, batch_size=size).score_pixels(rows[:300])
        np.testing.assert_allclose(found, expected[:300], atol=1e-5)


@pytest.mark.skipif(free_memory(0) is None, reason="there is no GPU here")
@pytest.mark.parametrize("make", [make_ensemble, make_two_precisions])
def test_a_gpu_gives_spreads_and_takes_fp32_of_two_precisions(make):
    content, rows = make(), cutouts(500)
    scorer = Scorer(content, device="cuda", threads=2)
    assert (scorer.device, scorer.precision) == ("cuda", "fp32")
    found = scorer.score_pixels_with_spread(rows)
    expected = Scorer(content, precision="fp32" if make is make_two_precisions else "auto")
    for each, wanted in zip(found, expected.score_pixels_with_spread(rows), strict=True):
        np.testing.assert_allclose(each, wanted, atol=1e-5)


@pytest.mark.skipif(free_memory(0) is None, reason="there is no GPU here")
def test_locked_pages_are_let_go_with_their_array():
    load_libraries(onnxruntime)
    Scorer(make_model(), device="cuda")
    for _ in range(200):
        lock_pages(np.empty((1024, 64, 64, 1), np.float32))
    pixels = cutouts(10)
    lock_pages(pixels)
    np.testing.assert_array_equal(pixels, cutouts(10))
