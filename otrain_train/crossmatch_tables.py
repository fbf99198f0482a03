"""The tables that ``otrain-checkinfer`` reads: simulated sources, and candidates with their scores."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from otrain_infer.cutouts import FALSE_TEXTS, SENTINEL
from otrain_infer.errors import SourceError, UsageError
from otrain_infer.table import check_output, read_table
from otrain_train.intervals import NO_MAGNITUDE

if TYPE_CHECKING:
    from astropy.table import Table

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

NEEDED_OF_SOURCES = ("mag", "closest_candID")
NEEDED_OF_CANDIDATES = ("cand_ID", "label1", "FWHM", "FWHMPSF")

MISSING = ("", "none", "nan", "null", "-", "--")
"""What a table says, in small letters, where there is nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Simulated sources, one row each.

    Attributes
    ----------
    files, filters, indices
        Text (n,): the image, the filter and the number in its list of simulated sources; empty where missing. The
        number begins anew in every list.
    mags
        float64 (n,) (magnitudes), those simulated; NaN where missing.
    closest
        Text (n,): the candidate nearest to the source; empty where none was found.
    edge
        bool (n,), whether that candidate is at the edge of its image.
    near
        Text (m,): all candidates that were found near a source, the nearest among them.
    """

    files: Texts
    filters: Texts
    indices: Texts
    mags: Floats
    closest: Texts
    edge: Bools
    near: Texts

    def __len__(self) -> int:
        return len(self.mags)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidates with their scores, one row each.

    Attributes
    ----------
    candids, files
        Text (n,): identifier and image, empty where missing.
    scores
        float32 (n,), NaN where a candidate could not be scored.
    mags
        float64 (n,) (magnitudes), NaN where missing.
    fwhm_ratios
        float64 (n,), FWHM over that of the point spread function; NaN where either is missing or not positive.
    """

    candids: Texts
    files: Texts
    scores: npt.NDArray[np.float32]
    mags: Floats
    fwhm_ratios: Floats

    def __len__(self) -> int:
        return len(self.scores)


def read_sources(path: Path, notes: list[str]) -> Sources:
    """Read the simulated sources.

    Parameters
    ----------
    path
        ``crossmatch.dat``, one row for each simulated source.
    notes
        Gets a sentence on each thing that is not as it should be.

    Returns
    -------
    Sources

    Raises
    ------
    SourceError
        When the table is missing, cannot be read, or is empty.
    UsageError
        When it lacks a column.
    """
    table = _read(path, ("idx", "closest_candID", "all_candIDs"))
    _check_columns(table, NEEDED_OF_SOURCES, path, "--crossmatch", "cand_ID")
    return _sources(_without_copies(table, notes), notes)


def read_candidates(path: Path, notes: list[str]) -> Candidates:
    """Read candidates and their scores, from a table of `otrain_infer.table` or of the original program.

    Parameters and errors are those of `read_sources`.
    """
    table = _read(path, ())
    _check_columns(table, NEEDED_OF_CANDIDATES, path, "--infer", "closest_candID")
    return _candidates(table, notes)


def _read(path: Path, texts: Collection[str]) -> "Table":
    from astropy.io import ascii as astropy_ascii

    table_format = check_output(path)
    if not path.exists():
        raise SourceError(f"there is no table '{path}'")
    if not table_format.startswith("ascii.") or table_format == "ascii.ecsv":
        return read_table(path)
    # As texts, so that an identifier of 18 digits keeps them all beside a nan. Only where asked for: it is slow.
    options = {"converters": dict.fromkeys(texts, str), "fast_reader": False} if texts else {}
    try:
        lines = [*path.read_text(encoding="utf-8").split("\n"), ""]
        return astropy_ascii.read(lines, format=table_format.removeprefix("ascii."), guess=False, **options)
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise SourceError(
            f"the table '{path}' cannot be read ({said}): it takes a first line with a # and the names of the columns, "
            "and as many values in each row"
        ) from None


def _check_columns(table: "Table", needed: Sequence[str], path: Path, option: str, of_the_other: str) -> None:
    missing = [name for name in needed if name not in table.colnames]
    if missing:
        hint = "; it looks like the other of the two tables" if of_the_other in table.colnames else ""
        raise UsageError(
            f"the table '{path}' of {option} has no column {' '.join(missing)}{hint} "
            f"(its columns: {' '.join(table.colnames)})"
        )
    if len(table) == 0:
        raise SourceError(f"the table '{path}' of {option} has no rows")


def _without_copies(table: "Table", notes: list[str]) -> "Table":
    seen = list(zip(*(_texts(table, name).tolist() for name in table.colnames), strict=True))
    first = list(dict(zip(reversed(seen), reversed(range(len(seen))), strict=True)).values())
    copies = len(seen) - len(first)
    if copies:
        notes.append(f"{copies} row(s) of simulated sources repeat another one in all columns: they are left out")
    return table[np.sort(first)] if copies else table


def _sources(table: "Table", notes: list[str]) -> Sources:
    mags = _magnitudes(table)
    closest = np.array([as_candid(text) for text in _texts(table, "closest_candID").tolist()], np.str_)
    closest[_numbers(table, "Nmatches") == 0] = ""
    if np.isnan(mags).any():
        notes.append(f"{np.isnan(mags).sum()} simulated source(s) have no magnitude: they are in no range of magnitude")
    return Sources(
        files=_texts(table, "filename"),
        filters=_texts(table, "filter"),
        indices=_texts(table, "idx"),
        mags=mags,
        closest=closest,
        edge=np.array([text.upper() not in (*FALSE_TEXTS, "0") for text in _texts(table, "edge").tolist()], np.bool_),
        near=_near(table, closest, notes),
    )


def _near(table: "Table", closest: Texts, notes: list[str]) -> Texts:
    counts = _numbers(table, "Nmatches")
    found, unclear = {candid for candid in closest.tolist() if candid}, 0
    for text, count in zip(_texts(table, "all_candIDs").tolist(), counts.tolist(), strict=True):
        parts = [candid for each in re.split(r"[\s,;|]+", text) if (candid := as_candid(each))]
        if count >= 2 and len(parts) != count:
            unclear += 1  # some versions of gmadet put nothing between the identifiers
        else:
            found.update(parts)
    if unclear:
        notes.append(
            f"all_candIDs of {unclear} simulated source(s) does not hold as many candidates as Nmatches says: only the "
            "nearest of them counts as simulated"
        )
    return np.array(sorted(found), np.str_)


def _candidates(table: "Table", notes: list[str]) -> Candidates:
    candids = np.array([as_candid(text) for text in _texts(table, "cand_ID").tolist()], np.str_)
    scores = _numbers(table, "label1").astype(np.float32)
    wrong = (scores < 0) | (scores > 1)
    if wrong.any():
        notes.append(f"{wrong.sum()} candidate(s) have a label1 that is no score from 0 to 1: they count as not scored")
        scores[wrong] = np.nan
    widths, psf = _positive(_numbers(table, "FWHM")), _positive(_numbers(table, "FWHMPSF"))
    kept = _first_of_each(candids, np.isfinite(scores), notes)
    unnamed = int(np.sum(candids == ""))
    if unnamed:
        notes.append(f"{unnamed} candidate(s) have no cand_ID: they match nothing and count as not simulated")
    unscored = int(np.isnan(scores[kept]).sum())
    if unscored:
        said = "they are in no distribution of scores, and below every limit"
        notes.append(f"{unscored} of {kept.size} candidates have no score: {said}")
    with np.errstate(over="ignore"):
        ratios = widths / psf
    ratios[np.isinf(ratios)] = np.nan
    files = _texts(table, "originalFile")
    return Candidates(candids[kept], files[kept], scores[kept], _magnitudes(table)[kept], ratios[kept])


def _first_of_each(candids: Texts, scored: Bools, notes: list[str]) -> npt.NDArray[np.int64]:
    # Of the rows of one candidate the first that has a score, or else the first.
    order = np.lexsort((~scored, candids))
    ordered = candids[order]
    first = np.append(True, ordered[1:] != ordered[:-1])
    twice = np.unique(ordered[~first & (ordered != "")]).size
    if twice:
        extra = int(np.sum(~first & (ordered != "")))
        notes.append(
            f"{twice} cand_ID(s) stand more than once in the table of scores: the first row with a score counts, and "
            f"{extra} row(s) are left out"
        )
    return np.sort(order[first | (ordered == "")])


def as_candid(text: str) -> str:
    """Write the identifier of a candidate in the one way in which it is compared: ``12`` for ``" 12.0"``."""
    stripped = text.strip()
    if stripped.lower() in MISSING:
        return ""
    whole = re.fullmatch(r"(\d+)\.0*", stripped)
    return whole[1] if whole else stripped


def _texts(table: "Table", name: str) -> Texts:
    if name not in table.colnames:
        return np.full(len(table), "", "<U1")
    column = np.ma.asarray(table[name])
    values = [_as_text(value) for value in np.ma.filled(column.astype(object), "").tolist()]
    return np.array(["" if text.strip().lower() in MISSING else text.strip() for text in values], np.str_)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return str(value)


def _numbers(table: "Table", name: str) -> Floats:
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    column = np.ma.asarray(table[name])
    if column.dtype.kind in "biuf":
        return np.ma.filled(column.astype(np.float64), np.nan)
    return np.array([_as_number(text) for text in _texts(table, name).tolist()], np.float64)


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.nan


def _magnitudes(table: "Table") -> Floats:
    values = _numbers(table, "mag")
    return np.where(np.abs(values) < NO_MAGNITUDE, values, np.nan)


def _positive(values: Floats) -> Floats:
    return np.where(np.isfinite(values) & (values > 0) & (values != SENTINEL), values, np.nan)
