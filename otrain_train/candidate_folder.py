"""The candidates in a folder: cutouts in it and in folders below, each under a name that it keeps when it is sorted."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from otrain_infer.errors import SourceError
from otrain_infer.sources import SUFFIXES

CLASSES = ("true", "false")
"""Folders that candidates are sorted into, in any capitals."""


@dataclass(frozen=True, slots=True)
class CandidateFolder:
    """The candidates of a folder, in the order of their keys.

    Attributes
    ----------
    folder
        That was looked through.
    keys
        What each is known by: its path relative to the folder, without a folder true or false at its end, so that it
        stays the same when the file is sorted. Where several files would have the same key, each has its whole path,
        one that is not sorted after ``./``: what is known of the key that they would have is not about any of them.
    paths
        Where each lies now, relative to the folder; kept up to date as files move.
    shared
        Keys that several files would have.
    """

    folder: Path
    keys: list[str]
    paths: list[str]
    shared: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.keys)

    def path(self, index: int) -> str:
        """Give the whole path of a candidate, as it lies now where it was moved by another process."""
        known = os.path.join(self.folder, self.paths[index])
        if not os.path.lexists(known):
            for place in _places(self.folder, self.keys[index]):
                if os.path.lexists(os.path.join(self.folder, place)):
                    self.paths[index] = place
                    return os.path.join(self.folder, place)
        return known

    def is_sortable(self, index: int) -> bool:
        """Whether the key tells the candidate from all others wherever it is sorted."""
        return key_of(self.paths[index]) not in self.shared


def key_of(path: str) -> str:
    """Give a path relative to the folder without the folder true or false that its file lies in."""
    folder, name = os.path.split(path)
    above, last = os.path.split(folder)
    return os.path.join(above, name) if last.lower() in CLASSES else path


def class_of(path: str) -> str:
    """Give true or false where a path says that its file is sorted, else an empty text."""
    last = os.path.basename(os.path.dirname(path)).lower()
    return last if last in CLASSES else ""


def _places(root: Path, key: str) -> list[str]:
    folder, name = os.path.split(key)
    try:
        classes = sorted(each for each in os.listdir(root / folder) if each.lower() in CLASSES)
    except OSError:
        classes = []
    return [key, *(os.path.join(folder, each, name) for each in classes)]


def find_candidates(folder: str | os.PathLike[str], unsorted: bool = False) -> CandidateFolder:
    """List the cutouts in a folder and in all folders below it; hidden ones, and links to folders, are left out.

    Parameters
    ----------
    folder
        Is looked through.
    unsorted
        Whether to leave out those that lie in a folder true or false.

    Raises
    ------
    SourceError
        When the folder cannot be read, or holds no cutout.
    """
    root = os.fspath(folder)
    try:
        paths = list(_walk(root, ""))
    except OSError as error:
        where = error.filename or root
        raise SourceError(f"the folder '{where}' cannot be read ({error.strerror or error})") from None
    if not paths:
        raise SourceError(
            f"there is no cutout (.fits, .fit, .fts, also .gz or .fz) in the folder '{root}' or below it: name the "
            "folder of the candidates"
        )
    shared = Counter(map(key_of, paths))
    if max(shared.values()) > 1:
        paths = _without_twins(root, paths, shared)
        shared = Counter(map(key_of, paths))
    pairs = sorted((key_of(path) if shared[key_of(path)] == 1 else _whole(path), path) for path in paths)
    if unsorted:
        pairs = [(key, path) for key, path in pairs if not class_of(path)]
        if not pairs:
            raise SourceError(f"all cutouts in the folder '{root}' are sorted: each lies in a folder true or false")
    several = frozenset(key for key, count in shared.items() if count > 1)
    return CandidateFolder(Path(root), [key for key, _ in pairs], [path for _, path in pairs], several)


def _whole(path: str) -> str:
    return path if class_of(path) else os.path.join(os.curdir, path)


def _without_twins(root: str, paths: list[str], shared: Counter[str]) -> list[str]:
    # Two names of one file: a move was interrupted between the new name and the old, and what is sorted counts.
    kept: dict[str, list[str]] = {}
    for path in sorted(paths, key=lambda path: (class_of(path) == "", path)):
        others = kept.setdefault(key_of(path), [])
        if shared[key_of(path)] == 1 or not any(_are_one(root, path, other) for other in others):
            others.append(path)
    return [path for each in kept.values() for path in each]


def _are_one(root: str, path: str, other: str) -> bool:
    try:
        return Path(root, path).samefile(Path(root, other))
    except OSError:
        return False


def _walk(root: str, below: str) -> Iterator[str]:
    folders = []
    with os.scandir(os.path.join(root, below) if below else root) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(below, name)
            elif entry.is_dir(follow_symlinks=False):
                folders.append(os.path.join(below, name))
    for each in folders:
        yield from _walk(root, each)
