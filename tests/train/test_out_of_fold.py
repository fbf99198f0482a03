"""Each row is scored by a network that has not learnt it."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from otrain_infer.errors import DatacubeError, UsageError
from otrain_train.datacube import Datacube
from otrain_train.out_of_fold import cut, score_out_of_fold
from otrain_train.settings import TrainSettings
from otrain_train.suspects import find_suspects

QUICK = TrainSettings(epochs=2, min_steps=8, batch_size=16, seeds=(3,))


def make_cube(n=60, size=16, seed=0):
    """Cutouts of noise, the real ones with a source in the middle, two of each object."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < n // 2).astype(np.int64)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    cube = rng.normal(0, 1, (n, size, size, 1))
    cube[labels == 1, ..., 0] += 9 * np.exp(-(y**2 + x**2) / 4)
    groups = np.array([f"object{i // 2}" for i in range(n)])
    return Datacube.from_columns({"cube": cube.astype(np.float32), "labels": labels, "groups": groups}, ("DIFF",))


@pytest.fixture(scope="module")
def cube():
    """Two labels of it are wrong: one that says real, and one that says bogus."""
    cube = make_cube()
    cube.labels[[4, 50]] = 1 - cube.labels[[4, 50]]
    return cube


@pytest.fixture(scope="module")
def whole(cube, tmp_path_factory):
    steps = []
    settings = replace(QUICK, epochs=3, min_steps=25)
    folder = tmp_path_factory.mktemp("whole") / "folds"
    scores = score_out_of_fold(cube, np.arange(60), settings, 2, folder, lambda *step: steps.append(step))
    return settings, scores, steps, folder


def test_wrong_labels_are_the_most_suspicious(cube, whole):
    _, scores, _, _ = whole
    assert scores.shape == (60,)
    assert np.isfinite(scores).all()
    assert set(find_suspects(cube.labels, scores).rows[:2]) == {4, 50}


def test_progress_runs_through_all_parts(whole):
    _, _, steps, folder = whole
    assert [step[0] for step in steps] == list(range(1, 151))
    assert {step[1] for step in steps} == {150}
    assert steps[0][2].startswith("part 1 of 2, epoch 1")
    assert not folder.exists()


def test_parts_keep_groups_and_classes_together(cube):
    rows = np.arange(2, 60)
    parts = cut(cube, rows, QUICK, 4)
    assert sorted(np.concatenate(parts)) == list(range(58))
    groups = [set(cube.groups[rows[part]]) for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    for part in parts:
        assert 4 <= cube.labels[rows[part]].sum() <= part.size - 4


def test_the_group_key_of_the_settings_counts(cube):
    files = replace(cube, files=np.array([f"image{i // 10}" for i in range(60)]))
    for part in cut(files, np.arange(60), replace(QUICK, group_key="files"), 3):
        assert all(np.isin(np.flatnonzero(files.files == name), part).all() for name in files.files[part])


def test_a_broken_run_goes_on_and_comes_to_the_same(cube, whole, tmp_path):
    settings, scores, _, _ = whole

    class BrokenError(Exception):
        pass

    def breaks(done, total, words):
        if done == 130:
            raise BrokenError

    rows, again = np.arange(60), []
    (tmp_path / "notes.txt").write_text("kept")
    with pytest.raises(BrokenError):
        score_out_of_fold(cube, rows, settings, 2, tmp_path, breaks)
    resumed = score_out_of_fold(cube, rows, settings, 2, tmp_path, lambda *step: again.append(step[0]))
    # The first part, and two epochs of the second, are not done again.
    assert again == list(range(126, 151))
    assert np.array_equal(resumed, scores)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_too_few_rows_and_too_few_parts_are_told(cube, tmp_path):
    with pytest.raises(UsageError, match="cut the rows in 2 or more"):
        score_out_of_fold(cube, np.arange(60), QUICK, 1, tmp_path)
    with pytest.raises(DatacubeError, match="it takes 10 of each class"):
        score_out_of_fold(cube, np.arange(22, 40), QUICK, 2, tmp_path)
