"""All that the page works with: candidates, pictures, scores, maps, orders, and the votes."""

import hashlib
import json
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from otrain_infer.errors import UsageError
from otrain_train.candidate_folder import class_of, find_candidates
from otrain_train.label import moves
from otrain_train.label.again import SecondLooks
from otrain_train.label.maps import Maps
from otrain_train.label.order import ORDERS, Order, check_order, order_of
from otrain_train.label.pictures import PictureReader
from otrain_train.label.scores import Scores
from otrain_train.label.stretch import STRETCHES, Shades
from otrain_train.verdicts import Rule, agreements
from otrain_train.votes import AGAIN, CHOICES, ID, LOOKS, NONE, OPEN, Journal, Vote

LABELS = "labels.csv"
LONGEST_NAME = 64
MOST_MODELS = 2
LETTERS = {"true": "t", "false": "f", "unsure": "u"}


@dataclass(frozen=True, slots=True)
class DeskSettings:
    """What the page shows, and how.

    Attributes
    ----------
    labeller
        Who votes, unless the page says another name.
    models
        None, one or two ONNX files.
    order
        One of `otrain_train.label.order.ORDERS`.
    seed
        Decides the order at random and which looks are blind.
    blind_fraction
        Part of the looks that are blind second looks, and of the first looks that are blind; below 0.5.
    planes
        The planes shown; all that there are if empty.
    labels
        The file of votes; labels.csv in the folder if None.
    rule
        When votes make a label.
    unsorted
        Whether candidates in folders true and false are left out.
    """

    labeller: str
    models: tuple[Path, ...] = ()
    order: str = "name"
    seed: int = 0
    blind_fraction: float = 0.1
    planes: tuple[str, ...] = ()
    labels: Path | None = None
    rule: Rule = field(default_factory=Rule)
    unsorted: bool = False

    def __post_init__(self) -> None:
        check_labeller(self.labeller)
        check_order(self.order, len(self.models))
        if not 0 <= self.blind_fraction <= 0.5:
            raise UsageError(f"a fraction of {self.blind_fraction} blind looks makes no sense: give one from 0 to 0.5")
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}: give 0 or more")


def check_labeller(name: str) -> str:
    """Give a labeller's name without blanks about it; raises UsageError where it is none."""
    shown = name.strip()
    if not shown or not shown.isprintable() or len(shown) > LONGEST_NAME:
        raise UsageError(f"a labeller's name has from 1 to {LONGEST_NAME} letters, all of which can be shown")
    return shown


class Desk:
    """Candidates and all that is done with them; may be used by several threads at once.

    Parameters
    ----------
    folder
        Of the candidates.
    settings
        What is shown, and how.

    Raises
    ------
    OtrainError
        When the folder holds no candidate, the votes cannot be written, or a model cannot be used.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: DeskSettings) -> None:
        self.settings = settings
        self.candidates = find_candidates(folder, settings.unsorted)
        self.journal = Journal(settings.labels or Path(folder) / LABELS)
        self.pictures = PictureReader.of(self.candidates, settings.planes)
        self.scores = Scores(self.candidates, settings.models)
        self._maps = Maps(settings.models[0], self.scores.scorers[0]) if settings.models else None
        self.looks = SecondLooks(self.candidates.keys, settings.blind_fraction, settings.seed)
        self._index = {key: index for index, key in enumerate(self.candidates.keys)}
        self._candids: dict[int, str] = {}
        self._moving = threading.Lock()
        shown = [self.candidates.keys, self.scores.names, settings.seed, settings.blind_fraction]
        self.listing = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
        """Tells what is shown from what another desk would show: an index, or a score, means nothing there."""

    def describe(self, labeller: str) -> dict[str, Any]:
        """Say what there is, for a page that begins."""
        candidates, scores, pictures = self.candidates, self.scores, self.pictures
        place = f"{os.path.realpath(candidates.folder)}\0{os.path.realpath(self.journal.path)}"
        return {
            "listing": self.listing,
            "desk": hashlib.sha256(os.fsencode(place)).hexdigest()[:16],
            "folder": candidates.folder.resolve().name or str(candidates.folder),
            "labels": str(self.journal.path),
            "keys": candidates.keys,
            "planes": pictures.planes,
            "size": pictures.size,
            "step": pictures.step,
            "stretches": STRETCHES,
            "models": scores.names,
            "thresholds": [scorer.card.threshold for scorer in scores.scorers],
            "maps": self._maps.kinds if self._maps else (),
            "orders": ORDERS[: 2 + len(scores.scorers)],
            "order": self.settings.order,
            "blind": "".join("1" if blind else "0" for blind in self.looks.first),
            "blind_fraction": self.settings.blind_fraction,
            **self.state(labeller),
        }

    def state(self, labeller: str, journal: str = "", have: int = -1) -> dict[str, Any]:
        """Say how far scores and votes have come.

        Parameters
        ----------
        labeller
            Whose votes they are.
        journal, have
            What the page knows: as of `Journal.state`, and how many votes. Only where there are others, they are said.
        """
        with self.journal.reading() as tally:
            said: dict[str, Any] = {
                "listing": self.listing,
                "labeller": labeller,
                "scored": self.scores.done,
                "problem": self.scores.problem,
                "journal": self.journal.state,
                "votes": tally.votes,
                "labellers": tally.labellers,
            }
            if (journal, have) == (self.journal.state, tally.votes):
                return said
            mine = tally.of(labeller)
        said["mine"] = "".join(LETTERS.get(mine.get(key, ""), ".") for key in self.candidates.keys)
        return said

    def order(self, order: str) -> Order:
        """Give the candidates in an order."""
        if order not in ORDERS:
            raise UsageError(f"there is no such order: take one of {', '.join(ORDERS)}")
        check_order(order, len(self.scores.scorers))
        return order_of(order, np.array(self.looks.first), self.scores.values, self.settings.seed)

    def others(self, index: int, labeller: str) -> dict[str, str]:
        """Give the votes of others on a candidate."""
        with self.journal.reading() as tally:
            votes = dict(tally.standing.get(self.candidates.keys[index], {}))
        return {name: vote for name, vote in votes.items() if name != labeller}

    def show(self, indices: Sequence[int], stretch: str, small: bool) -> tuple[list[dict[str, Any]], Shades]:
        """Give what there is to say of some candidates, and their shades, as of `PictureReader.pictures`."""
        said, shades = self.pictures.pictures(indices, stretch, small)
        with self.journal.reading() as tally:
            voted = [tally.candids.get(self.candidates.keys[index], "") for index in indices]
        for index, candid, each in zip(indices, voted, said, strict=True):
            each["sorted"] = class_of(self.candidates.paths[index])
            if candid and each.get("CANDID", candid) != candid:
                each["reason"] = f"its votes are on another candidate of this name, CANDID {candid}"
        return said, shades

    def explain(self, index: int, kind: str) -> Any:
        """Give the map of a candidate, as of `Maps.explain`."""
        if self._maps is None or kind not in self._maps.kinds:
            raise UsageError(
                "there is no such map: maps come from a model (--model), Grad-CAM from the .keras beside it"
            )
        pixels = self.pictures.pixels(index, self.scores.scorers[0].reader)
        return self._maps.explain(pixels, kind)

    def vote(self, labeller: str, given: Sequence[Any]) -> dict[str, Any]:
        """Write votes of a labeller to the journal.

        Parameters
        ----------
        labeller
            Who voted.
        given
            Of each vote what the page says: id, key, vote, and of what was shown: look, place, order, and scores, pairs
            of model and score.

        Returns
        -------
        dict
            The ids ``kept`` on the disk, ``refused`` ones with the reason, how many ``votes`` there are in the state
            ``journal``, and ``again``: candidates to show again.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        votes, refused = [], {}
        for each in given:
            try:
                votes.append(self._read_vote(check_labeller(labeller), now, each))
            except (UsageError, KeyError, TypeError, ValueError, AttributeError) as error:
                refused[str(each.get("id", ""))[:64] if isinstance(each, dict) else ""] = str(error)[:200]
        kept = self.journal.append(votes)
        looked = sum(vote.vote != NONE and vote.look != AGAIN for vote in votes)
        with self.journal.reading() as tally:
            return {
                "listing": self.listing,
                "kept": kept,
                "refused": refused,
                "journal": self.journal.state,
                "votes": tally.votes,
                "again": self.looks.draw(tally, labeller, looked),
            }

    def _read_vote(self, labeller: str, now: str, given: dict[str, Any]) -> Vote:
        key, choice, vote_id, look = given["key"], given["vote"], given["id"], given.get("look", OPEN)
        if key not in self._index:
            raise UsageError("there is no such candidate in the folder")
        if choice not in CHOICES or look not in LOOKS or not ID.fullmatch(vote_id):
            raise UsageError("it is no vote")
        place = given.get("place")
        scores = [(str(model)[:200], float(score)) for model, score in given.get("scores", ())][:MOST_MODELS]
        scores = [(model, score) for model, score in scores if math.isfinite(score)]
        return Vote(
            time=now,
            labeller=labeller,
            candidate=key,
            candid=self._candid(self._index[key]),
            vote=choice,
            model=";".join(model for model, _ in scores),
            score=";".join(f"{score:.6g}" for _, score in scores),
            look=look,
            place="" if place is None else str(int(place)),
            order=str(given.get("order") or "")[:20],
            id=vote_id,
        )

    def _candid(self, index: int) -> str:
        if index not in self._candids:
            self._candids[index] = self.pictures.candid(index)
        return self._candids[index]

    def agreement(self) -> list[dict[str, Any]]:
        """Say how far labellers agree."""
        with self.journal.reading() as tally:
            found = agreements(tally)
        return [
            {
                "one": a.one,
                "other": a.other,
                "n": a.n,
                "same": a.same,
                "kappa": None if math.isnan(a.kappa) else a.kappa,
            }
            for a in found
        ]

    def plan(self) -> moves.Plan:
        """Say what is to be moved."""
        with self._moving, self.journal.reading() as tally:
            return moves.plan_moves(self.candidates, tally, self.settings.rule)

    def move(self) -> int:
        """Move the candidates as the votes say, and give how many."""
        with self._moving:
            with self.journal.reading() as tally:
                plan = moves.plan_moves(self.candidates, tally, self.settings.rule)
            return moves.move(self.candidates, plan)

    def undo_moves(self) -> int:
        """Move the candidates back that were moved last, and give how many."""
        with self._moving:
            return moves.undo(self.candidates)
