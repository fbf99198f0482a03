"""``candidates_list.dat``: what was detected on difference images, in the columns of gmadet."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.cutouts import FALSE_TEXTS
from otrain_infer.errors import SourceError
from otrain_train.outputs import check_own_list

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]
Bools = npt.NDArray[np.bool_]

LIST_NAME = "candidates_list.dat"

COLUMNS = {
    "ids": "ID",
    "ra": "RA",
    "dec": "Dec",
    "x": "Xpos",
    "y": "Ypos",
    "edge": "edge",
    "bands": "Band",
    "mags": "mag",
    "magerrs": "magerr",
    "fwhms": "FWHM",
    "psf_fwhms": "FWHMPSF",
    "differences": "filename",
    "images": "OriginalIma",
    "references": "RefIma",
    "snrs": "SNR",
    "signs": "sign",
}
"""Attribute -> column. The last three are not of gmadet."""

TEXTS = ("ids", "bands", "differences", "images", "references")
FORMATS = {"RA": "%.7f", "Dec": "%.7f", "Xpos": "%.3f", "Ypos": "%.3f", "mag": "%.4f", "magerr": "%.4f"}
FORMATS |= {"FWHM": "%.3f", "FWHMPSF": "%.3f", "SNR": "%.2f", "sign": "%d"}


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Candidates, one row each; numbers are float64 (n,), NaN where missing.

    Attributes
    ----------
    ids
        Text (n,).
    ra, dec
        Position (degrees).
    x, y
        Position in the image (pixels, the first being 1).
    edge
        bool (n,): at the edge of the image.
    bands
        Text (n,), the filter.
    mags, magerrs
        Magnitude and its error.
    fwhms, psf_fwhms
        Width, and that of the point spread function (pixels).
    differences, images, references
        Text (n,): the difference image, the science image and the reference on its pixels; empty where there is none.
        Paths begin in the folder of the list.
    snrs
        Significance of the flux.
    signs
        1, or -1 for what is brighter in the reference.
    """

    ids: Texts
    ra: Floats
    dec: Floats
    x: Floats
    y: Floats
    edge: Bools
    bands: Texts
    mags: Floats
    magerrs: Floats
    fwhms: Floats
    psf_fwhms: Floats
    differences: Texts
    images: Texts
    references: Texts
    snrs: Floats
    signs: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, parts: Sequence["Candidates"]) -> "Candidates":
        """Put lists one after the other, and number them from 0 on."""
        columns = {each.name: np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)}
        columns["ids"] = np.arange(len(columns["ids"])).astype(str)
        return cls(**columns)

    def select(self, rows: npt.NDArray[np.int64]) -> "Candidates":
        """Give some of them."""
        return Candidates(*(getattr(self, each.name)[rows] for each in fields(self)))

    def write(self, path: Path) -> None:
        """Write them as gmadet does.

        Raises
        ------
        OutputError
            When the file cannot be written.
        """
        from astropy.table import Table

        columns = {column: getattr(self, name) for name, column in COLUMNS.items()}
        columns["edge"] = np.where(self.edge, "Y", "N")
        with replacing(path) as part:
            Table(columns).write(part, format="ascii.commented_header", formats=FORMATS, overwrite=True)


def check_replaceable(path: Path) -> None:
    """See to it that a list that is there may be replaced: one of another program stays.

    Raises
    ------
    OutputError
        When it is not one that `Candidates.write` has written.
    """
    check_own_list(path, COLUMNS.values(), "otrain-detect")


def read_candidates(path: Path) -> Candidates:
    """Read a list, of otrain-detect or of gmadet.

    Raises
    ------
    SourceError
        When it is missing, cannot be read, or has no positions.
    """
    if not path.exists():
        raise SourceError(f"there is no list of candidates '{path}': otrain-detect makes it")
    if path.is_file() and path.stat().st_size == 0:
        raise SourceError(f"the list of candidates '{path}' is empty: otrain-detect makes it anew")
    # The reader of astropy takes longer than cutting the candidates out.
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file, delimiter=" ", skipinitialspace=True)
    except (OSError, ValueError, csv.Error) as error:
        raise SourceError(f"the list of candidates '{path}' cannot be read ({error})") from None
    names = [name.removeprefix("#") for name in names if name not in ("#", "")]
    rows = [row[:-1] if row[-1] == "" and len(row) == len(names) + 1 else row for row in rows if row]
    wrong = next((number for number, row in enumerate(rows, 2) if len(row) != len(names)), None)
    if wrong is not None:
        raise SourceError(
            f"the list of candidates '{path}' cannot be read: line {wrong} does not have {len(names)} values, as many "
            "as the first line has names"
        )
    return from_table({name: np.array(column, np.str_) for name, column in _columns(names, rows)}, str(path))


def _columns(names: list[str], rows: list[list[str]]) -> Iterator[tuple[str, Sequence[str]]]:
    return zip(names, zip(*rows, strict=True) if rows else [[]] * len(names), strict=True)


def from_table(table: dict[str, Any], said: str) -> Candidates:
    """Make candidates of columns under the names of the list.

    Raises
    ------
    SourceError
        When there is neither a position in the sky nor one in the image.
    """
    if not ({"RA", "Dec"} <= set(table) or {"Xpos", "Ypos"} <= set(table)):
        raise SourceError(f"{said} has no positions, neither RA and Dec nor Xpos and Ypos (it has: {' '.join(table)})")
    n = len(next(iter(table.values())))
    columns: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        values = table.get(column)
        if name in TEXTS:
            columns[name] = np.full(n, "", "<U1") if values is None else _texts(values)
        elif name == "edge":
            columns[name] = np.zeros(n, np.bool_) if values is None else _truths(values)
        else:
            columns[name] = np.full(n, np.nan) if values is None else numbers(values, column, said)
    if (columns["ids"] == "").any():
        columns["ids"] = np.arange(n).astype(str)
    columns["signs"] = np.where(np.isnan(columns["signs"]), 1.0, np.sign(columns["signs"]))
    return Candidates(**columns)


def numbers(values: Any, column: str, said: str) -> Floats:
    """Read numbers, NaN where there is none.

    Raises
    ------
    SourceError
        When there is something else.
    """
    filled = np.ma.filled(np.ma.asarray(values).astype(object), np.nan)
    try:
        return np.array([np.nan if value in ("", "None", "--") else value for value in filled.tolist()], np.float64)
    except (TypeError, ValueError):
        raise SourceError(f"the column {column} of {said} does not hold numbers") from None


def _texts(values: Any) -> Texts:
    filled = np.ma.filled(np.ma.asarray(values).astype(object), "")
    return np.array([value.decode() if isinstance(value, bytes) else str(value).strip() for value in filled], np.str_)


def _truths(values: Any) -> Bools:
    if np.asarray(values).dtype.kind in "biuf":
        return np.asarray(np.nan_to_num(np.ma.filled(np.ma.asarray(values).astype(np.float64), 0.0)) != 0)
    return np.array([text.upper() not in (*FALSE_TEXTS, "0") for text in _texts(values).tolist()], np.bool_)
