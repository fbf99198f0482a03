"""The short version of benchmarks/fuzz.py: the inputs that are kept, and a few thousand mutations of them."""

import gzip
import hashlib
import random

import numpy as np
import pytest
from fuzz_inputs import CORPUS, MUTATE, SEEDS, load_corpus, model_of
from fuzz_targets import CHECK, WANTED, Guarded, check_model, interpreted

from otrain_infer import fits_tiles
from otrain_infer.alerts import AlertReader
from otrain_infer.cutouts import Cutouts
from otrain_infer.fits import decode

EXECUTIONS = {"fits": 2500, "packets": 1500, "card": 5000}


@pytest.mark.parametrize("target", SEEDS)
def test_what_is_kept_does_no_harm(target):
    kept = load_corpus(target)
    assert kept
    for data in kept:
        CHECK[target](data)


@pytest.mark.parametrize("target", SEEDS)
def test_seeds_are_read_as_others_read_them(target):
    for data in SEEDS[target]():
        CHECK[target](data, thoroughly=True)


@pytest.mark.parametrize("target", SEEDS)
def test_mutations_do_no_harm(target):
    rng, inputs = random.Random(20), [*SEEDS[target](), *load_corpus(target)]
    for _ in range(EXECUTIONS[target]):
        data = rng.choice(inputs)
        for _ in range(rng.randrange(1, 4)):
            data = MUTATE[target](data, rng)
        CHECK[target](data)


def test_models_with_any_card_or_any_damage_are_run_or_refused():
    rng, cards = random.Random(21), [*SEEDS["card"](), *load_corpus("card")]
    for _ in range(60):
        check_model(model_of(rng.choice(cards), rng))


def test_the_corpus_is_small_and_named_by_what_it_holds():
    paths = [*CORPUS.glob("*/*.gz")]
    assert sum(path.stat().st_size for path in paths) < 400_000
    for path in paths:
        kind, _, digest = path.stem.partition("-")
        assert kind in ("seed", "found")
        assert digest == hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()[:16]


def _decoded(data):
    found = []
    for wanted in WANTED:
        pixels = np.full((1, *wanted.size, len(wanted.planes)), 7, np.float32)
        decoded = decode(np.frombuffer(data, np.uint8), np.array([[0, len(data)]]), wanted, pixels)
        found.append((pixels, decoded.flags, decoded.shapes, *decoded.numbers.values(), *decoded.texts.values()))
    return found


def _read(data):
    parts = [part for part, _ in AlertReader(("SCI", "REF", "DIFF"), (5, 5)).read_parts([data])]
    cutouts = Cutouts.concatenate(parts)
    return [(cutouts.pixels, cutouts.flags, *cutouts.header.values())]


@pytest.mark.parametrize(("target", "read"), [("fits", _decoded), ("packets", _read)])
def test_python_runs_the_kernels_as_numba_does(target, read):
    inputs = [*SEEDS[target](), *load_corpus(target)[:40]]
    compiled = [read(data) for data in inputs]
    with interpreted():
        for data, found in zip(inputs, compiled, strict=True):
            for each, other in zip(read(data), found, strict=True):
                for one, same in zip(each, other, strict=True):
                    np.testing.assert_array_equal(one, same)


def test_a_read_beyond_the_bytes_is_seen_where_python_runs_the_kernels():
    stream = Guarded().at_end(bytes([0, 0, 0, 7, 255, 255]))
    with interpreted(), pytest.raises(AssertionError, match="byte 6 of 6 is read"):
        fits_tiles.rice_is_whole.py_func(_Longer(stream), 4, 32, 1)


class _Longer:
    """Bytes that claim to be more than they are, as a kernel that does not look takes them."""

    def __init__(self, data):
        from fuzz_targets import Checked

        self._data, self.size = Checked(data), 1000

    def __getitem__(self, at):
        return self._data[at]
