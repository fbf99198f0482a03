"""Moving candidates into true/ and false/ as their votes say, and back: journalled beforehand, never over a file."""

import csv
import io
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from otrain_infer.errors import OutputError, SourceError
from otrain_train.candidate_folder import CLASSES, CandidateFolder, class_of
from otrain_train.verdicts import Rule, judge
from otrain_train.votes import Tally, escape, read_line

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

JOURNAL = "moves.csv"
HEADER = ["time", "batch", "from", "to"]
_FIRST = (",".join(HEADER) + "\n").encode()
UNDONE = "undone"
"""Stands in the column ``from`` of a line that says that a batch was taken back."""

NOTHING = "there is nothing to undo: no candidate was moved, or all were moved back"

WHY = {
    "few": "with too few votes for true or false",
    "tie": "with as many votes for true as for false",
    "agreement": "with too little agreement",
    "name": "that share their name with another",
    "link": "that are links",
    "taken": "whose name is taken where they belong",
    "gone": "that are no longer there",
}
"""Why candidates that were voted on stay where they are."""


@dataclass(slots=True)
class Plan:
    """Which candidates are to be moved, and which stay.

    Attributes
    ----------
    moves
        (index, path, new path), relative to the folder.
    classes
        How many go to true and how many to false.
    there
        How many lie already where they belong.
    staying
        How many stay, by a key of `WHY`.
    """

    moves: list[tuple[int, str, str]] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)
    there: int = 0
    staying: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        said = f"{self.classes['true']} to true/, {self.classes['false']} to false/, {self.there} already there"
        stays = ", ".join(f"{count} {WHY[why]}" for why, count in sorted(self.staying.items()))
        return f"{said}; {stays} stay" if stays else said


def plan_moves(candidates: CandidateFolder, tally: Tally, rule: Rule) -> Plan:
    """Find out which candidates are to be moved into the folders true and false beside them."""
    plan = Plan()
    folders: dict[str, dict[str, str]] = {}
    for index, key in enumerate(candidates.keys):
        votes = tally.standing.get(key)
        if not votes:
            continue
        verdict = judge(votes, rule)
        whole = candidates.path(index)  # which looks for it where another process has moved it
        path = candidates.paths[index]
        if not verdict.label:
            plan.staying[verdict.why] += 1
        elif class_of(path) == verdict.label:
            plan.there += 1
        elif why := _why_not(candidates, index, whole):
            plan.staying[why] += 1
        else:
            home = os.path.dirname(key)
            names = folders.setdefault(home, _class_folders(os.path.join(candidates.folder, home)))
            target = os.path.join(home, names[verdict.label], os.path.basename(key))
            if os.path.lexists(os.path.join(candidates.folder, target)):
                plan.staying["taken"] += 1
            else:
                plan.moves.append((index, path, target))
                plan.classes[verdict.label] += 1
    return plan


def _why_not(candidates: CandidateFolder, index: int, whole: str) -> str:
    if not candidates.is_sortable(index):
        return "name"
    if Path(whole).is_symlink():  # a relative one would point nowhere from another folder
        return "link"
    return "" if os.path.lexists(whole) else "gone"


def _class_folders(home: str) -> dict[str, str]:
    there = {name.lower(): name for name in sorted(os.listdir(home), reverse=True)}
    return {name: there.get(name, name) for name in CLASSES}


def move(candidates: CandidateFolder, plan: Plan) -> int:
    """Move files as planned, and keep `candidates` up to date.

    All moves are in the journal, on the disk, before the first is made: however they are interrupted, `undo` finds out
    from what is there how far they came.

    Returns
    -------
    int
        How many were moved: all, but for those whose name was taken in the meantime.

    Raises
    ------
    OutputError
        When a file cannot be moved, or the journal cannot be written; those before it are moved, and can be undone.
    """
    if not plan.moves:
        return 0
    with _journal(candidates.folder) as journal:
        batch = secrets.token_hex(8)
        journal.append([[_now(), batch, old, new] for _, old, new in plan.moves])
        moved = 0
        try:
            for index, old, new in plan.moves:
                (candidates.folder / new).parent.mkdir(exist_ok=True)
                if _rename(candidates.folder, old, new):
                    candidates.paths[index] = new
                    moved += 1
        finally:
            if not moved:  # and so nothing that an undo would be about
                journal.append([[_now(), batch, UNDONE, ""]])
    return moved


def undo(candidates: CandidateFolder) -> int:
    """Move the files of the last batch of moves that was not undone back to where they came from.

    Returns
    -------
    int
        How many were moved back. A file that is no longer where it was moved to, or whose old place is taken, stays.

    Raises
    ------
    SourceError
        When there is nothing to undo.
    OutputError
        When a file cannot be moved, or the journal cannot be written.
    """
    if not (candidates.folder / JOURNAL).exists():
        raise SourceError(NOTHING)
    with _journal(candidates.folder) as journal:
        batch, rows = journal.last()
        places = {path: index for index, path in enumerate(candidates.paths)}
        back = 0
        for old, new in reversed(rows):
            if _rename(candidates.folder, new, old):
                back += 1
                if new in places:
                    candidates.paths[places[new]] = old
        # Only now: had it been interrupted before, it is done again, and what has been moved back is left alone.
        journal.append([[_now(), batch, UNDONE, ""]])
    return back


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _rename(folder: Path, old: str, new: str) -> bool:
    """Move a file unless the new name is taken; tell whether it was."""
    source, target = folder / old, folder / new
    try:
        # A link beforehand, for a rename would replace what is there.
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        if not source.samefile(target) or source.resolve() == target.resolve():
            return False
        # Both names of one file: it was interrupted between the two steps.
    except FileNotFoundError:
        return False
    except OSError:  # a file system without such links
        if os.path.lexists(target):
            return False
        source.rename(target)
        return True
    source.unlink()
    return True


class _Journal:
    def __init__(self, file: int) -> None:
        self._file = file

    def append(self, rows: list[list[str]]) -> None:
        text = io.StringIO()
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            text.write("\n")
        writer = csv.writer(text, lineterminator="\n")
        if size == 0:
            writer.writerow(HEADER)
        writer.writerows([map(escape, row) for row in rows])
        content = text.getvalue().encode()
        try:
            if os.write(self._file, content) < len(content):
                raise OSError(28, "the disk is full")
            os.fsync(self._file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._file, size)
            raise

    def last(self) -> tuple[str, list[tuple[str, str]]]:
        with os.fdopen(os.dup(self._file), encoding="utf-8", errors="replace", newline="") as file:
            file.seek(0)
            lines = file.read().split("\n")[1:-1]
        batches: dict[str, list[tuple[str, str]]] = {}
        for line in lines:
            row = read_line(line, len(HEADER))
            if row:
                _, batch, old, new = row
                if old == UNDONE and not new:
                    batches.pop(batch, None)
                elif _is_within(old) and _is_within(new):
                    batches.setdefault(batch, []).append((old, new))
        if not batches:
            raise SourceError(NOTHING)
        return list(batches.items())[-1]


def _is_within(path: str) -> bool:
    return bool(path) and not Path(path).is_absolute() and os.pardir not in Path(path).parts


@contextmanager
def _journal(folder: Path) -> Iterator[_Journal]:
    path = folder / JOURNAL
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if fcntl:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_size and not os.pread(file, len(_FIRST), 0) == _FIRST:
                raise OutputError(f"'{path}' is something else than a journal of moves: give it another name")
            yield _Journal(file)
        finally:
            os.close(file)
    except OSError as error:
        if isinstance(error, OutputError | SourceError):
            raise
        named = error.filename or path
        raise OutputError(f"'{named}' could not be moved or written ({error.strerror or error})") from error
