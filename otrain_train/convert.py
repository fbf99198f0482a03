"""What ``otrain-convert`` does: cutouts sorted into true/ and false/, or by votes, in; one datacube out."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from otrain_infer.chunks import map_in_order, split
from otrain_infer.cutouts import CHUNK, CutoutReader, Cutouts, check_planes, native_size
from otrain_infer.errors import SourceError, UsageError
from otrain_infer.flags import CutoutFlag
from otrain_train.cubewriter import DatacubeWriter
from otrain_train.datacube import Datacube
from otrain_train.sorting import Sorted, sorted_by_folders, sorted_by_votes
from otrain_train.verdicts import Rule

COMMONEST = -1
"""The cutout size that stands for the commonest among the files."""
SIZE_SAMPLE = 1000
"""Files whose size is looked at to find the commonest."""
EXAMPLES = 3
"""How many of the cutouts left out are named, for each class and cause."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """What goes into a datacube.

    Attributes
    ----------
    frac_true
        Fraction of real cutouts, between 0 and 1: the largest set that has it is chosen at random. None takes all.
    cutout_size
        Width and height (pixels), to which others are cropped or padded about the object; -1 for the commonest.
    planes
        The planes to take, in order.
    seed
        Decides which cutouts of the class that has too many are taken.
    threads
        How many read at once.
    labels
        Votes of `otrain-label` that say which cutouts are real; None where the folders true and false do.
    rule
        When votes make a label.
    """

    frac_true: float | None = 0.5
    cutout_size: int = COMMONEST
    planes: tuple[str, ...] = ("DIFF",)
    seed: int = 0
    threads: int = 1
    labels: Path | None = None
    rule: Rule = field(default_factory=Rule)

    def __post_init__(self) -> None:
        if self.frac_true is not None and not 0 < self.frac_true < 1:
            raise UsageError(f"a fraction of real cutouts of {self.frac_true} makes no sense: give one between 0 and 1")
        if self.cutout_size != COMMONEST and self.cutout_size < 1:
            raise UsageError(f"a cutout size of {self.cutout_size} pixels makes no sense: give 1 or more, or -1")
        if self.threads < 1:
            raise UsageError(f"{self.threads} threads cannot work: give 1 or more")
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}: give 0 or more")
        check_planes(self.planes)


@dataclass(slots=True)
class ClassCount:
    """What became of the files of one class.

    Attributes
    ----------
    files
        How many there are.
    read
        How many were read: all, unless enough usable ones had been found before.
    usable
        How many of these can be taken.
    edge
        How many were left out because EDGE says that they touch the edge of their image.
    unusable
        How many were left out because they cannot be read, lack a plane or are blank.
    resized
        How many of the usable ones were cropped or padded.
    taken
        How many are in the datacube.
    examples
        The first few that were left out: file and why.
    """

    files: int
    read: int = 0
    usable: int = 0
    edge: int = 0
    unusable: int = 0
    resized: int = 0
    taken: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    @property
    def spared(self) -> int:
        """How many more there are that were not left out, but not taken either."""
        return self.files - self.edge - self.unusable - self.taken


@dataclass(frozen=True, slots=True)
class ConvertSummary:
    """What a datacube was made of.

    Attributes
    ----------
    path
        The datacube.
    size
        (ny, nx) of its cutouts (pixels).
    planes
        Its planes, in order.
    true, false
        What became of the files of each class.
    votes
        What became of the votes, in one line; empty where there were none or all count.
    """

    path: Path
    size: tuple[int, int]
    planes: tuple[str, ...]
    true: ClassCount
    false: ClassCount
    votes: str = ""

    def __str__(self) -> str:
        n = self.true.taken + self.false.taken
        lines = [
            f"{self.path}: {n} cutouts, {self.true.taken} real and {self.false.taken} bogus, "
            f"{self.size[0]}x{self.size[1]} pixels, {','.join(self.planes)}"
        ]
        for name, count in (("real", self.true), ("bogus", self.false)):
            lines.append(
                f"{name}: {count.files} files, {count.read} read, {count.usable} usable ({count.resized} cropped or "
                f"padded); left out {count.edge} at an edge and {count.unusable} unusable"
            )
            lines += [f"  {file}: {why}" for file, why in count.examples]
            unnamed = count.edge + count.unusable - len(count.examples)
            if unnamed:
                lines.append(f"  and {unnamed} more")
            if count.spared:
                lines.append(
                    f"  {count.spared} more could be taken with --frac-true all: training then weighs the classes"
                )
        return "\n".join([*lines, self.votes] if self.votes else lines)


def convert(
    folder: str | os.PathLike[str],
    output_path: str | os.PathLike[str],
    settings: ConvertSettings | None = None,
    progress: Progress | None = None,
) -> ConvertSummary:
    """Put sorted cutouts into one datacube, reading each file once and in memory of a fixed size.

    Which are real the folders say that they lie in, or votes. Cutouts at an edge (EDGE) and unusable ones are left out
    and others taken in their stead as long as there are any.

    Parameters
    ----------
    folder
        Holds the folders `true` and `false`, in any capitals; with votes, the candidates.
    output_path
        The datacube to write; one that is there is replaced when the new one is whole.
    settings
        What goes into it.
    progress
        Called with the number of files read so far and the number there are.

    Returns
    -------
    ConvertSummary
        What was taken and what was left out; as text it says so in a few lines.

    Raises
    ------
    SourceError
        When a folder is missing, empty or ambiguous, no cutout of a class is usable, or votes cannot be read.
    UsageError
        When a setting makes no sense.
    OutputError
        When the datacube cannot be written.
    """
    settings = settings or ConvertSettings()
    run = _Run(_sort(Path(folder), settings), settings, progress)
    with DatacubeWriter(output_path) as writer:
        for label in run.order():
            run.read(label, writer)
            _check_usable(run.counts[label], run.sorted.where[label])
        run.choose(writer)
    counts = run.counts
    return ConvertSummary(Path(output_path), run.size, settings.planes, counts[1], counts[0], run.sorted.said)


def _sort(folder: Path, settings: ConvertSettings) -> Sorted:
    return sorted_by_votes(folder, settings.labels, settings.rule) if settings.labels else sorted_by_folders(folder)


def largest_set(n_true: int, n_false: int, fraction: float | None) -> tuple[int, int]:
    """Give how many of each class make the largest set in which the real ones are a fraction.

    Parameters
    ----------
    n_true, n_false
        How many there are of each.
    fraction
        Between 0 and 1; None takes all.

    Returns
    -------
    tuple of int
        Real and bogus: all of one class, and of the other as many as come nearest to the fraction.
    """
    if fraction is None:
        return n_true, n_false
    false_wanted = n_true * (1 - fraction) / fraction
    if false_wanted <= n_false:
        return n_true, max(round(false_wanted), min(1, n_false))
    return min(max(round(n_false * fraction / (1 - fraction)), min(1, n_true)), n_true), n_false


class _Run:
    """One conversion: the files of both classes, and what has become of them so far."""

    def __init__(self, cutouts: Sorted, settings: ConvertSettings, progress: Progress | None) -> None:
        self.sorted = cutouts
        self._settings = settings
        self._progress = progress
        self._files = dict(cutouts.files)
        self.counts = {label: ClassCount(len(files)) for label, files in self._files.items()}
        self.size = self._find_size()
        if settings.frac_true is not None:
            # The cutouts taken are those that come first in a random order: which they are does not depend on how many
            # threads read, and reading can stop when there are enough.
            for label, files in self._files.items():
                rng = np.random.default_rng([settings.seed, label])
                self._files[label] = [files[i] for i in rng.permutation(len(files))]

    def _find_size(self) -> tuple[int, int]:
        if self._settings.cutout_size != COMMONEST:
            return self._settings.cutout_size, self._settings.cutout_size
        files = self._files[1] + self._files[0]
        rng = np.random.default_rng(self._settings.seed)
        sample = rng.choice(len(files), min(SIZE_SAMPLE, len(files)), replace=False)
        return native_size([files[i] for i in np.sort(sample)], self._settings.planes, SIZE_SAMPLE)

    def order(self) -> tuple[int, int]:
        """Give the labels in the order in which to read them: first the class that seems to limit the set."""
        n_true, n_false = self.counts[1].files, self.counts[0].files
        all_true = largest_set(n_true, n_false, self._settings.frac_true)[0] == n_true
        return (1, 0) if all_true else (0, 1)

    def read(self, label: int, writer: DatacubeWriter) -> None:
        """Read one class until all is read or there is enough of it."""
        count, wanted = self.counts[label], self._wanted(label)
        planes, chunks = self._settings.planes, split(self._files[label], CHUNK)
        for cutouts in map_in_order(CutoutReader(planes, self.size).read, chunks, self._settings.threads):
            usable = self._account(count, cutouts, label)
            if usable.any():
                taken = cutouts if usable.all() else cutouts.select(usable)
                writer.append(_rows(taken, label, planes, self.sorted))
            self._report()
            if count.usable >= wanted:
                break

    def _report(self) -> None:
        if self._progress:
            counts = self.counts.values()
            self._progress(sum(count.read for count in counts), sum(count.files for count in counts))

    def _wanted(self, label: int) -> float:
        other, fraction = self.counts[1 - label], self._settings.frac_true
        if fraction is None or other.read == 0:
            return math.inf
        ratio = fraction / (1 - fraction)
        return math.ceil(other.usable * (ratio if label else 1 / ratio))

    def _account(self, count: ClassCount, cutouts: Cutouts, label: int) -> npt.NDArray[np.bool_]:
        at_edge, resized = _any_of(cutouts, CutoutFlag.EDGE), _any_of(cutouts, CutoutFlag.PADDED | CutoutFlag.CROPPED)
        strangers = self.sorted.strangers(cutouts)
        unusable = ~cutouts.usable | strangers
        usable = ~unusable & ~at_edge
        at_edge &= ~unusable
        for rows, named in ((unusable, count.unusable), (at_edge, count.edge)):
            for row in np.flatnonzero(rows)[: max(EXAMPLES - named, 0)]:
                other = "another candidate than was voted on" if strangers[row] else "at the edge of its image"
                why = cutouts.reasons.get(int(row), other)
                count.examples.append((self.sorted.name(str(cutouts.names[row]), label), why))
        count.read += len(cutouts)
        count.usable += int(usable.sum())
        count.edge += int(at_edge.sum())
        count.unusable += int(unusable.sum())
        count.resized += int((usable & resized).sum())
        return usable

    def choose(self, writer: DatacubeWriter) -> None:
        """Tell the writer how many of each class to keep."""
        true, false = self.counts[1], self.counts[0]
        true.taken, false.taken = largest_set(true.usable, false.usable, self._settings.frac_true)
        writer.keep(true.taken, false.taken)


def _any_of(cutouts: Cutouts, flags: CutoutFlag) -> npt.NDArray[np.bool_]:
    return np.asarray((cutouts.flags & flags) != 0, np.bool_)


def _check_usable(count: ClassCount, where: str) -> None:
    if count.usable == 0:
        file, why = count.examples[0]
        raise SourceError(
            f"none of the {count.files} cutouts {where} is usable, and both classes are needed: {count.edge} lie at an "
            f"edge, {count.unusable} are unusable ({file}: {why})"
        )


def _rows(cutouts: Cutouts, label: int, planes: tuple[str, ...], where: Sorted) -> Datacube:
    header = cutouts.header
    return Datacube(
        cube=cutouts.pixels,
        labels=np.full(len(cutouts), label, np.int64),
        mags=header["MAG"],
        errmags=header["MAGERR"],
        filters=header["FILTER"],
        fwhms=header["FWHM"],
        candids=header["CANDID"],
        planes=planes,
        files=np.array([where.name(name, label) for name in cutouts.names.tolist()], np.str_),
        groups=np.where(header["OBJECTID"] == "", header["FILE"], header["OBJECTID"]),
        mjds=header["MJD"],
        weights=where.weights(cutouts),
    )
