"""All that the page works with: candidates, pictures, scores, maps, orders, and the votes."""

import hashlib
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from otrain_infer.errors import UsageError
from otrain_train.candidate_folder import class_of, find_candidates
from otrain_train.label import moves
from otrain_train.label.again import SecondLooks
from otrain_train.label.maps import Maps
from otrain_train.label.order import ORDERS, Order, check_order, order_of
from otrain_train.label.pictures import PictureReader
from otrain_train.label.scores import Scores
from otrain_train.label.stretch import STRETCHES
from otrain_train.verdicts import Rule, agreements
from otrain_train.votes import AGAIN, CHOICES, ID, LOOKS, NONE, OPEN, Journal, Vote

LABELS = "labels.csv"
LONGEST_NAME = 64
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
    """

    labeller: str
    models: tuple[Path, ...] = ()
    order: str = "name"
    seed: int = 0
    blind_fraction: float = 0.1
    planes: tuple[str, ...] = ()
    labels: Path | None = None
    rule: Rule = field(default_factory=Rule)

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
        self.candidates = find_candidates(folder)
        self.journal = Journal(settings.labels or Path(folder) / LABELS)
        self.pictures = PictureReader.of(self.candidates, settings.planes)
        self.scores = Scores(self.candidates, settings.models)
        self._maps = Maps(settings.models[0], self.scores.scorers[0]) if settings.models else None
        self.looks = SecondLooks(self.candidates.keys, settings.blind_fraction, settings.seed)
        self._index = {key: index for index, key in enumerate(self.candidates.keys)}
        self._candids: dict[int, str] = {}
        self._moving = threading.Lock()
        keys = "\0".join(self.candidates.keys).encode("utf-8", "surrogatepass")
        self.listing = hashlib.sha256(keys).hexdigest()[:16]
        """Tells these candidates from others: an index means nothing among others."""

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
            "labeller": labeller,
            "models": scores.names,
            "thresholds": [scorer.card.threshold for scorer in scores.scorers],
            "maps": self._maps.kinds if self._maps else (),
            "orders": ORDERS[: 2 + len(scores.scorers)],
            "order": self.settings.order,
            "blind": "".join("1" if blind else "0" for blind in self.looks.first),
            **self.state(labeller, -1),
        }

    def state(self, labeller: str, have: int) -> dict[str, Any]:
        """Say how far scores and votes have come; the votes only where there are others than the `have` first."""
        tally = self.journal.refresh()
        said: dict[str, Any] = {
            "listing": self.listing,
            "scored": self.scores.done,
            "problem": self.scores.problem,
            "votes": tally.votes,
            "labellers": tally.labellers,
        }
        if tally.votes != have:
            votes = ["."] * len(self.candidates)
            for key, vote in tally.of(labeller).items():
                if key in self._index:
                    votes[self._index[key]] = LETTERS[vote]
            said["mine"] = "".join(votes)
        return said

    def order(self, order: str) -> Order:
        """Give the candidates in an order."""
        if order not in ORDERS:
            raise UsageError(f"there is no such order: take one of {', '.join(ORDERS)}")
        check_order(order, len(self.scores.scorers))
        return order_of(order, len(self.candidates), self.scores.values, self.settings.seed)

    def others(self, index: int, labeller: str) -> dict[str, str]:
        """Give the votes of others on a candidate, and where it is sorted."""
        votes = self.journal.refresh().standing.get(self.candidates.keys[index], {})
        return {name: vote for name, vote in votes.items() if name != labeller}

    def lies_in(self, index: int) -> str:
        """Give true or false where a candidate is sorted already, else an empty text."""
        return class_of(self.candidates.paths[index])

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
            Of each vote what the page says: id, key, vote, and of what was shown: look, model, score, place, order.

        Returns
        -------
        dict
            The ids ``kept`` on the disk, ``refused`` ones with the reason, how many ``votes`` there are, and ``again``:
            a candidate to show again, or None.
        """
        labeller, now = check_labeller(labeller), datetime.now(UTC).isoformat(timespec="milliseconds")
        votes, refused = [], {}
        for each in given:
            try:
                votes.append(self._read_vote(labeller, now, each))
            except (UsageError, KeyError, TypeError, ValueError, AttributeError) as error:
                refused[str(each.get("id", ""))[:64] if isinstance(each, dict) else ""] = str(error)[:200]
        kept = self.journal.append(votes)
        tally = self.journal.tally
        drawn = any(vote.vote != NONE and vote.look != AGAIN for vote in votes)
        again = self.looks.draw(tally, labeller) if drawn else None
        return {"listing": self.listing, "kept": kept, "refused": refused, "votes": tally.votes, "again": again}

    def _read_vote(self, labeller: str, now: str, given: dict[str, Any]) -> Vote:
        key, choice, vote_id, look = given["key"], given["vote"], given["id"], given.get("look", OPEN)
        if key not in self._index:
            raise UsageError("there is no such candidate in the folder")
        if choice not in CHOICES or look not in LOOKS or not ID.fullmatch(vote_id):
            raise UsageError("it is no vote")
        score, place = given.get("score"), given.get("place")
        shown = "" if score is None or not math.isfinite(float(score)) else f"{float(score):.6g}"
        return Vote(
            time=now,
            labeller=labeller,
            candidate=key,
            candid=self._candid(self._index[key]),
            vote=choice,
            model=str(given.get("model") or "")[:200] if shown else "",
            score=shown,
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
        found = agreements(self.journal.refresh())
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
        with self._moving:
            return moves.plan_moves(self.candidates, self.journal.refresh(), self.settings.rule)

    def move(self) -> int:
        """Move the candidates as the votes say, and give how many."""
        with self._moving:
            plan = moves.plan_moves(self.candidates, self.journal.refresh(), self.settings.rule)
            return moves.move(self.candidates, plan)

    def undo_moves(self) -> int:
        """Move the candidates back that were moved last, and give how many."""
        with self._moving:
            return moves.undo(self.candidates)
