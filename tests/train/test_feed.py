import time
from itertools import islice

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from otrain_infer.normalise import Normalisation
from otrain_train.datacube import Datacube
from otrain_train.feed import Feed

CUBE = np.random.default_rng(0).normal(3, 1, (90, 16, 17, 2)).astype(np.float32)


def saved(kind, tmp_path):
    labels = np.arange(90) % 2
    if kind == "memory":
        return CUBE
    if kind == "mapped":
        Datacube.from_columns({"cube": CUBE, "labels": labels}, ("SCI", "DIFF")).save(tmp_path / "c.npz")
    else:
        # As numpy writes it the pixels may begin anywhere.
        np.savez(tmp_path / "c.npz", x=np.zeros(3, np.uint8), cube=CUBE, labels=labels)
    return Datacube.load(tmp_path / "c.npz", ("SCI", "DIFF")).cube


@pytest.mark.parametrize("block", [1, 50_000, 1 << 22])
@pytest.mark.parametrize("kind", ["memory", "mapped", "saved by numpy"])
@pytest.mark.parametrize("method", ["l2", "robust"])
def test_batches_come_in_order_as_the_network_takes_them(block, kind, method, tmp_path, monkeypatch):
    monkeypatch.setattr("otrain_train.feed.BLOCK", block)
    cube = saved(kind, tmp_path)
    order = np.random.default_rng(1).permutation(90).reshape(9, 10)
    order[:, 3] = order[:, 2]
    found = list(Feed(cube, Normalisation(method)).batches(lambda number: order[number], 2, 9))
    assert len(found) == 7
    expected = Normalisation(method).apply(CUBE.copy())
    for (rows, pixels), wanted in zip(found, order[2:], strict=True):
        assert np.array_equal(rows, wanted)
        assert np.array_equal(pixels, expected[wanted])
    assert cube.flags.writeable == (kind == "memory")


@pytest.mark.parametrize("together", [1, 3])
def test_batches_are_read_ahead_but_not_far(together, monkeypatch):
    monkeypatch.setattr("otrain_train.feed.BLOCK", together * CUBE[0].nbytes)
    asked = []

    def rows_of(number):
        asked.append(number)
        return np.array([number])

    stream = Feed(CUBE, Normalisation()).batches(rows_of, 0, 90)
    assert next(stream)[0] == [0]
    until = time.monotonic() + 10
    while len(asked) < 3 * together and time.monotonic() < until:
        time.sleep(0.01)
    assert 3 * together <= len(asked) < 30
    stream.close()
    time.sleep(0.2)
    stopped = len(asked)
    time.sleep(0.2)
    assert len(asked) == stopped


def test_the_rest_is_what_it_would_have_been():
    feed = Feed(CUBE, Normalisation())
    whole = [rows for rows, _ in feed.batches(lambda number: np.array([number, number + 1]), 0, 20)]
    rest = [rows for rows, _ in feed.batches(lambda number: np.array([number, number + 1]), 12, 20)]
    assert np.array_equal(whole[12:], rest)
    assert len(list(islice(feed.batches(lambda number: np.array([number]), 0, 3), 5))) == 3
