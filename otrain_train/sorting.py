"""Which cutouts are real and which are bogus: as they lie in the folders true and false, or as votes say."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from otrain_infer.cutouts import Cutouts
from otrain_infer.errors import SourceError
from otrain_infer.sources import find_cutouts
from otrain_train.candidate_folder import CLASSES, find_candidates
from otrain_train.verdicts import Rule, Verdict, judge
from otrain_train.votes import TRUE, Tally, read_votes

LABELS = {1: CLASSES[0], 0: CLASSES[1]}

EXAMPLES = 3
"""How many of the files that votes name in vain are named."""

LEFT_OUT = {
    "few": "with too few votes for true or false",
    "tie": "with a tie",
    "agreement": "with too little agreement",
}


@dataclass(frozen=True, slots=True)
class Sorted:
    """Cutouts of known label.

    Attributes
    ----------
    files
        Label -> paths.
    where
        Label -> what says so, in words.
    name
        Gives the path of a file relative to the folder, from its path and its label.
    agreements
        Path -> part of the votes that agree with the label; empty where folders say it.
    candids
        Path -> CANDID of the candidate that was voted on, where it is known.
    said
        What was left out, in one line; empty where nothing was.
    """

    files: dict[int, list[str]]
    where: dict[int, str]
    name: Callable[[str, int], str]
    agreements: Mapping[str, float] = field(default_factory=dict)
    candids: Mapping[str, str] = field(default_factory=dict)
    said: str = ""

    def weights(self, cutouts: Cutouts) -> npt.NDArray[np.float64]:
        """Give what each row is to count in a training, float64 (n,)."""
        return np.array([self.agreements.get(name, 1.0) for name in cutouts.names.tolist()], np.float64)

    def strangers(self, cutouts: Cutouts) -> npt.NDArray[np.bool_]:
        """Give the rows whose file is that of another candidate than was voted on, bool (n,)."""
        if not self.candids:
            return np.zeros(len(cutouts), np.bool_)
        candids = cutouts.header["CANDID"].tolist()
        known = (self.candids.get(name, "") for name in cutouts.names.tolist())
        return np.array([bool(old and new and old != new) for old, new in zip(known, candids, strict=True)], np.bool_)


def sorted_by_folders(folder: Path) -> Sorted:
    """Take cutouts as they lie in the folders true and false, in any capitals.

    Raises
    ------
    SourceError
        When a folder is missing, empty or ambiguous.
    """
    folders = _class_folders(folder)
    names = {label: path.name for label, path in folders.items()}
    return Sorted(
        files={label: find_cutouts(path) for label, path in folders.items()},
        where={label: f"in the folder '{name}' of '{folder}'" for label, name in LABELS.items()},
        name=lambda path, label: f"{names[label]}/{os.path.basename(path)}",
    )


def _class_folders(folder: Path) -> dict[int, Path]:
    try:
        inside = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise SourceError(f"the folder '{folder}' cannot be read ({error.strerror or error})") from None
    return {label: _class_folder(folder, inside, name) for label, name in LABELS.items()}


def _class_folder(folder: Path, inside: list[Path], name: str) -> Path:
    found = [entry for entry in inside if entry.name.lower() == name]
    if not found:
        held = ", ".join(entry.name for entry in inside[:4]) or "none"
        raise SourceError(
            f"there is no folder '{name}' in '{folder}' (folders there: {held}): cutouts are sorted into "
            "the folders true and false"
        )
    if len(found) > 1:
        names = " and ".join(entry.name for entry in found)
        raise SourceError(f"'{folder}' holds the folders {names}: put their cutouts into one")
    return found[0]


def sorted_by_votes(folder: Path, labels: Path, rule: Rule) -> Sorted:
    """Take cutouts as the majority of votes says, wherever in the folder they lie.

    Parameters
    ----------
    folder
        Of the candidates, as `otrain_train.candidate_folder.find_candidates` looks through it.
    labels
        The journal of votes.
    rule
        When votes make a label.

    Raises
    ------
    SourceError
        When the votes cannot be read, the folder holds no cutout, or the votes call none real, or none bogus.
    """
    tally = read_votes(labels)
    rule.warn_of_strangers(tally)
    candidates = find_candidates(folder)
    paths = dict(zip(candidates.keys, candidates.paths, strict=True))
    verdicts = {key: judge(votes, rule) for key, votes in sorted(tally.standing.items()) if votes}
    without = len(paths) - sum(key in paths for key in verdicts)
    missing = [key for key, verdict in verdicts.items() if verdict.label and key not in paths]
    chosen = {
        os.path.join(folder, paths[key]): (key, verdict)
        for key, verdict in verdicts.items()
        if verdict.label and key in paths
    }
    files: dict[int, list[str]] = {1: [], 0: []}
    for path, (_, verdict) in chosen.items():
        files[int(verdict.label == TRUE)].append(path)
    for label, name in ((1, "real"), (0, "bogus")):
        if not files[label]:
            raise SourceError(
                f"the votes in '{labels}' call no cutout in '{folder}' {name}, and both classes are needed: "
                f"{_left_out(verdicts, missing, without, tally) or 'label more'}"
            )
    return Sorted(
        files=files,
        where={label: f"that the votes call {name}" for label, name in LABELS.items()},
        name=lambda path, _: os.path.relpath(path, folder),
        agreements={path: verdict.agreement for path, (_, verdict) in chosen.items()},
        candids={path: tally.candids[key] for path, (key, _) in chosen.items() if key in tally.candids},
        said=_left_out(verdicts, missing, without, tally),
    )


def _left_out(verdicts: Mapping[str, Verdict], missing: list[str], without: int, tally: Tally) -> str:
    counts = Counter(verdict.why for verdict in verdicts.values() if verdict.why)
    parts = [f"{count} {LEFT_OUT[why]}" for why, count in sorted(counts.items())]
    if without:
        parts.append(f"{without} without a vote")
    if missing:
        named = ", ".join(map(ascii, missing[:EXAMPLES])) + (" and so on" if len(missing) > EXAMPLES else "")
        parts.append(f"{len(missing)} not in the folder ({named})")
    return f"votes: {tally.votes}; candidates left out: {', '.join(parts)}" if parts else ""
