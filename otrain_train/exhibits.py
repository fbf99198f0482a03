"""Candidates for a page: what is known of each, beside its pictures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from otrain_train.embedding import Embedded, embed_picture
from otrain_train.evaluation import Evaluation
from otrain_train.explanation import Cam, explain, names_of
from otrain_train.gallery import pictures_of, title_of
from otrain_train.splits import Rows
from otrain_train.suspects import Suspects


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A candidate.

    Attributes
    ----------
    name
        Its CANDID, or what stands for it.
    facts
        What is known of it, a few words each.
    pictures
        The name of each picture, and the picture.
    """

    name: str
    facts: tuple[str, ...]
    pictures: tuple[tuple[str, Embedded], ...]


def exhibit_mistakes(evaluation: Evaluation, rows: Rows, cam: Cam | None) -> Iterator[Exhibit]:
    """Show candidates with what the model looked at.

    Parameters
    ----------
    evaluation, rows, cam
        As for `otrain_train.explanation.explain`.
    """
    names = names_of(evaluation, cam)
    for row, pictures in zip(rows.tolist(), explain(evaluation, rows, cam), strict=True):
        embedded = tuple(zip(names, map(embed_picture, pictures), strict=True))
        yield Exhibit(*_known(evaluation, row), embedded)


def exhibit_suspects(evaluation: Evaluation, suspects: Suspects, most: int) -> Iterator[Exhibit]:
    """Show the candidates whose labels are the most suspicious, with their planes and no more: the eye must say.

    Parameters
    ----------
    evaluation
        Of the candidates that the suspects were sought among.
    suspects
        Of `otrain_train.suspects.find_suspects`.
    most
        How many to show.
    """
    planes, rows = evaluation.scorer.card.planes, suspects.rows[:most]
    for row, cutout in zip(rows.tolist(), evaluation.pixels(rows), strict=True):
        name, facts = _known(evaluation, row)
        label = "labelled real" if evaluation.labels[row] else "labelled bogus"
        pictures = tuple(zip(planes, map(embed_picture, pictures_of(cutout)), strict=True))
        yield Exhibit(name, (label, *facts), pictures)


def _known(evaluation: Evaluation, row: int) -> tuple[str, tuple[str, ...]]:
    cube = evaluation.datacube
    name, magnitude, score = title_of(cube, row, float(evaluation.scores[row])).split("\n")
    facts = [score, magnitude]
    if cube.filters[row]:
        facts.append(f"filter {cube.filters[row]}")
    if math.isfinite(cube.fwhms[row]):
        facts.append(f"FWHM {cube.fwhms[row]:.1f} pixels")
    if str(cube.files[row]) not in ("", name):
        facts.append(str(cube.files[row]))
    return name, tuple(facts)
