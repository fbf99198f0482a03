"""The table of scores: one row a cutout, with the original's columns, then flags and model."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.cutouts import Cutouts
from otrain_infer.errors import MissingExtraError, SourceError, UsageError

if TYPE_CHECKING:
    from astropy.table import Table

Scores = npt.NDArray[np.float32]

DEFAULT_NAME = "infer_results.dat"

FORMATS = {
    ".dat": "ascii.commented_header",
    ".csv": "ascii.csv",
    ".ecsv": "ascii.ecsv",
    ".fits": "fits",
    ".vot": "votable",
    ".parquet": "parquet",
}

COLUMNS = {
    "RA": "RA",
    "Dec": "DEC",
    "originalFile": "FILE",
    "Xpos": "XPOS",
    "Ypos": "YPOS",
    "mag": "MAG",
    "magerr": "MAGERR",
    "FWHM": "FWHM",
    "FWHMPSF": "FWHMPSF",
    "cand_ID": "CANDID",
}
"""Column of the table -> column of the header, in order."""


DELIMITERS = {"ascii.commented_header": " ", "ascii.csv": ","}
"""Of the formats that are plain text, which needs no astropy to be written."""

ROWS_AT_A_TIME = 4096

Columns = dict[str, npt.NDArray[Any]]


def build_columns(cutouts: Cutouts, scores: Scores, model: str, spreads: Scores | None = None) -> Columns:
    """Put cutouts and their scores in columns.

    Parameters
    ----------
    cutouts
        n rows.
    scores
        float32 (n,), NaN where a row is unusable.
    model
        Which model gave them, as of `Scorer.identity`.
    spreads
        float32 (n,), how far apart the networks of an ensemble are; not given for a single network.

    Returns
    -------
    dict of str to ndarray
        Each (n,): filename, RA, Dec (degrees), originalFile, Xpos, Ypos (pixels), mag, magerr, FWHM, FWHMPSF (pixels),
        cand_ID, label0, label1 (the score; label0 is 1 minus it), flags (`CutoutFlag`), model, and spread where it is
        given.
    """
    names = [_as_path(name) for name in _all_printable(cutouts.names.tolist())]
    columns: Columns = {"filename": np.array(names, np.str_)}
    for name, key in COLUMNS.items():
        column = cutouts.header[key]
        columns[name] = column if column.dtype.kind == "f" else np.array(_all_printable(column.tolist()), np.str_)
    columns |= {"label0": np.float32(1) - scores, "label1": scores, "flags": cutouts.flags}
    columns["model"] = np.full(len(cutouts), model)
    if spreads is not None:
        columns["spread"] = spreads
    return columns


def build_table(cutouts: Cutouts, scores: Scores, model: str, spreads: Scores | None = None) -> "Table":
    """Put cutouts and their scores in an astropy Table of the columns that `build_columns` gives."""
    from astropy.table import Table

    return Table(build_columns(cutouts, scores, model, spreads))


def _all_printable(texts: list[str]) -> list[str]:
    # Nearly always all of them are, which one look tells.
    return texts if "".join(texts).isprintable() else [*map(_printable, texts)]


def _printable(text: str) -> str:
    """Escape what a line of text cannot hold: control characters, line ends, and bytes that are no UTF-8."""
    decoded = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if decoded.isprintable():
        return decoded
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in decoded)


def _as_path(name: str) -> str:
    """Say a path so that no format takes its beginning for a comment or strips it."""
    return f"./{name}" if name[:1] == "#" or name[:1].isspace() else name


def check_output(path: str | os.PathLike[str]) -> str:
    """Give the format that the ending of `path` stands for.

    Raises
    ------
    UsageError
        When it stands for none.
    MissingExtraError
        When the format needs a package that is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"'{path}' does not end in one of {' '.join(FORMATS)}")
    if suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingExtraError("Parquet needs pyarrow: pip install 'otrain[parquet]'") from None
    return FORMATS[suffix]


def write_table(table: "Table", path: str | os.PathLike[str]) -> None:
    """Write a table, in the format that the ending of `path` stands for, whole or not at all.

    Raises
    ------
    UsageError
        When the ending stands for no format.
    OutputError
        When the file cannot be written.
    """
    table_format = check_output(path)
    table = table.copy(copy_data=False)
    if table_format == "votable":
        table["flags"] = table["flags"].astype(np.int32)  # VOTable has no unsigned integers of this length
    if table_format == "fits":
        for name in (name for name in table.colnames if table[name].dtype.kind == "U"):
            table[name] = np.char.encode(table[name], "ascii", "backslashreplace")  # FITS has no other characters
    with replacing(path) as temporary:
        table.write(temporary, format=table_format)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Callable[[Columns], None]]:
    """Write a table part by part, whole or not at all, to the bytes that `write_table` would write at once.

    Text is written as it comes, in memory that does not grow with its rows; the other formats need all of them first.

    Yields
    ------
    callable
        Takes the columns of consecutive rows, the same columns each time; it is to be called at least once.

    Raises
    ------
    UsageError
        When the ending stands for no format.
    OutputError
        When the file cannot be written.
    """
    table_format = check_output(path)
    if table_format in DELIMITERS:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            yield partial(write_rows, file, DELIMITERS[table_format])
        return
    parts: list[Columns] = []
    yield parts.append
    from astropy.table import Table

    write_table(Table({name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, copy=False), path)


def write_rows(file: TextIO, delimiter: str, columns: Columns) -> None:
    """Write rows as text, with one of `DELIMITERS` between columns, and the names of these where a file begins."""
    if file.tell() == 0:
        file.write(("# " if delimiter == " " else "") + delimiter.join(columns) + "\n")
    n = len(next(iter(columns.values())))
    for start in range(0, n, ROWS_AT_A_TIME):
        rows = slice(start, start + ROWS_AT_A_TIME)
        fields = [_in_text(column[rows], delimiter) for column in columns.values()]
        file.writelines(map("{}\n".format, map(delimiter.join, zip(*fields, strict=True))))


def _in_text(column: npt.NDArray[Any], delimiter: str) -> list[str]:
    if column.dtype.kind != "U":
        return list(map(repr, column.tolist()))
    values: list[str] = column.tolist()
    together = "\0".join(values)
    if not any(each in together for each in (delimiter, '"', " ", "\t")) and (delimiter != " " or "" not in values):
        return values
    return [_quoted(value.strip(" \t"), delimiter) for value in values]


def _quoted(text: str, delimiter: str) -> str:
    # Ends of lines are escaped already, see `_printable`.
    if delimiter in text or '"' in text or (delimiter == " " and not text):
        return '"' + text.replace('"', '""') + '"'
    return text


def read_table(path: str | os.PathLike[str]) -> "Table":
    """Read a table that `write_table` wrote, or the original's infer_results.dat.

    Raises
    ------
    SourceError
        When there is no such table, or it cannot be read.
    """
    from astropy.table import Table

    table_format = check_output(path)
    try:
        if table_format == "parquet":
            from pyarrow import parquet  # astropy would ask for pandas as well

            return Table(parquet.read_table(path).to_pydict())
        table = Table.read(path, format=table_format)
        if not table.colnames:
            raise ValueError("it has no columns")
        return table
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SourceError(f"the table '{path}' cannot be read ({error.strerror})") from None
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0].partition(". ")[0] or "no more is known"
        raise SourceError(
            f"the table '{path}' cannot be read ({said}): is it complete, and of the format that its name ends in?"
        ) from None
