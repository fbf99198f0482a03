"""Whatever way a cutout comes in, and with whatever others, its score is the same to the bit."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from cutout_files import write_cutout
from networks import make_two_precisions

from otrain_infer import Scorer, read_cutouts
from otrain_infer.datacube import iter_datacube

N = 150


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Cutouts of the size, of other sizes, and with holes."""
    folder = tmp_path_factory.mktemp("routes")
    shapes = {3: (50, 64), 70: (64, 41), 90: (80, 70)}
    return [write_cutout(folder / f"{seed:03}.fits", seed, shapes.get(seed, (64, 64))) for seed in range(N)]


MODELS = {"embedded": None, "two precisions": make_two_precisions()}


@pytest.fixture(scope="module")
def expected(paths):
    found = {}
    for name, model in MODELS.items():
        scorer = Scorer(model)
        found[name] = scorer.score_pixels(read_cutouts(paths, card=scorer.card).pixels)
        assert np.isfinite(found[name]).all()
        assert len(np.unique(found[name])) > N / 3
    return found


def score_sources(scorer, sources):
    return np.concatenate([scores for _, scores in scorer.score_sources(sources)])


def score_gzipped_files(scorer, paths, tmp_path):
    packed = [tmp_path / f"{Path(path).name}.gz" for path in paths]
    for path, target in zip(paths, packed, strict=True):
        target.write_bytes(gzip.compress(Path(path).read_bytes()))
    return score_sources(scorer, packed)


def score_datacube(scorer, paths, tmp_path):
    cube = read_cutouts(paths, card=scorer.card).pixels
    members = {"labels": np.zeros(N, int), "mags": np.zeros(N), "errmags": np.zeros(N), "candids": np.arange(N)}
    members |= {"filters": np.full(N, "r"), "fwhms": np.full(N, 3.0)}
    np.savez(tmp_path / "cube.npz", cube=cube, **members)
    return np.concatenate([scorer.score(part) for part in iter_datacube(tmp_path / "cube.npz", scorer.card, chunk=37)])


def contents(paths):
    return [Path(path).read_bytes() for path in paths]


ROUTES = {
    "paths": lambda scorer, paths, _: score_sources(scorer, paths),
    "folder": lambda scorer, paths, _: score_sources(scorer, Path(paths[0]).parent),
    "bytes": lambda scorer, paths, _: score_sources(scorer, contents(paths)),
    "file objects": lambda scorer, paths, _: score_sources(scorer, [io.BytesIO(each) for each in contents(paths)]),
    "gzipped bytes": lambda scorer, paths, _: score_sources(scorer, [gzip.compress(each) for each in contents(paths)]),
    "gzipped files": score_gzipped_files,
    "cutouts": lambda scorer, paths, _: scorer.score(read_cutouts(paths, card=scorer.card, threads=2)),
    "array": lambda scorer, paths, _: scorer.score_pixels(read_cutouts(paths, card=scorer.card).pixels),
    "one by one": lambda scorer, paths, _: np.concatenate([score_sources(scorer, path) for path in paths]),
    "datacube": score_datacube,
}


@pytest.mark.parametrize(("threads", "batch_size"), [(1, None), (3, 7), (2, 1), (1, 1000)])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("model", MODELS)
def test_a_score_is_the_same_to_the_bit(model, route, threads, batch_size, paths, expected, tmp_path):
    scorer = Scorer(MODELS[model], threads=threads, batch_size=batch_size)
    assert np.array_equal(ROUTES[route](scorer, paths, tmp_path), expected[model])
