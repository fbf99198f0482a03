"""The int8 copy of a model: made from real cutouts, judged on others, and joined with the model."""

import hashlib
import logging
import time
from dataclasses import replace

import numpy as np
import onnx

from otrain_infer.card import ModelCard
from otrain_infer.errors import ModelError, UsageError
from otrain_infer.normalise import Pixels, find_blank
from otrain_infer.scorer import Scorer, Scores
from otrain_train.graph import with_card
from otrain_train.quantise import is_int8, join, quantise
from otrain_train.reference import take_rows
from otrain_train.rescoring import check, choose_intervals, judge, thresholds_of
from otrain_train.settings import MAX_FLIPS

log = logging.getLogger(__name__)

CALIBRATION_ROWS, MAX_ROWS = 1024, 9216
"""Rows at most that give an int8 copy its ranges, and all that are used: of the others, every second one tells how far
the copy is to be relied on, and the rest judge it."""

MIN_ROWS = 200
"""Different rows that an int8 copy needs for both."""


def with_int8_copy(
    proto: onnx.ModelProto, card: ModelCard, rows: Pixels | None, max_flips: float = MAX_FLIPS
) -> tuple[onnx.ModelProto, ModelCard]:
    """Join a model with an int8 copy of itself, if that does what may be asked of it, and say what is gained.

    Parameters
    ----------
    proto
        A float32 graph from normalised cutouts to scores, as of `otrain_train.graph.add_score`.
    card
        Of the model.
    rows
        Raw pixels, float32 (n, ny, nx, planes), of real cutouts; `MAX_ROWS` of them at most are taken, evenly spaced.
        Every fourth of these, or fewer, gives the copy its ranges; half of the others choose which scores are computed
        again, and half judge the outcome.
    max_flips
        Fraction of calls, at the card's threshold and at each operating point, that may be made otherwise.

    Returns
    -------
    proto : onnx.ModelProto
        Both, see `otrain_train.quantise.join`.
    card : ModelCard
        With its `cascade`.

    Raises
    ------
    UsageError
        When there are too few rows.
    ModelError
        When nothing of the model can be computed in int8.
    ParityError
        When the copy changes too much.
    """
    usable = np.empty((0, *card.shape), np.float32)
    if rows is not None:
        taken = take_rows(rows, card.shape, MAX_ROWS)
        usable = taken[~find_blank(taken)]
    different = len({hashlib.sha256(row.tobytes()).digest() for row in usable})
    if different < MIN_ROWS:
        raise UsageError(
            f"int8 is made and judged on {MIN_ROWS} different cutouts or more, and there are {different}: name a "
            "datacube that has them with --calibration-cube"
        )
    every = max(4, -(-len(usable) // CALIBRATION_ROWS))
    giving = np.arange(len(usable)) % every == 0
    choosing, judging = usable[~giving][::2], usable[~giving][1::2]
    copy = quantise(proto, card.normalisation.apply(usable[giving]))
    if not is_int8(copy):
        raise ModelError(f"'{card.name}' has nothing that could be computed in int8: export it as fp32")
    thresholds, scorers = thresholds_of(card), [_scorer_of(each, card) for each in (copy, proto)]
    copied, own = (each.score_pixels(choosing) for each in scorers)
    intervals = choose_intervals(thresholds, copied, own, len(judging), max_flips)
    judged, seconds = zip(*(_score_timed(each, judging) for each in scorers), strict=True)
    in_int8, in_fp32 = judged
    cascade = judge(thresholds, in_int8, in_fp32, intervals)
    if card.golden:
        golden = scorers[0].score_pixels(card.golden.pixels)
        cascade = replace(cascade, golden=tuple(map(float, golden)))
    check(cascade, card.name, max_flips)
    _tell_gain(seconds[0] + cascade.rescored * seconds[1], seconds[1])
    return join(proto, copy), replace(card, cascade=cascade)


def _scorer_of(proto: onnx.ModelProto, card: ModelCard) -> Scorer:
    return Scorer(with_card(proto, card).SerializeToString())


def _score_timed(scorer: Scorer, rows: Pixels) -> tuple[Scores, float]:
    start = time.process_time()
    scores = scorer.score_pixels(rows)
    return scores, (time.process_time() - start) / len(rows)


def _tell_gain(int8: float, fp32: float) -> None:
    said = f"a cutout takes {1e6 * int8:.0f} µs of this processor in int8, with those that are scored again, and "
    if int8 < 0.9 * fp32:
        log.info("%s%.0f in fp32", said, 1e6 * fp32)
    else:
        log.warning("%s%.0f in fp32: here nothing is gained, so score with --precision fp32", said, 1e6 * fp32)
