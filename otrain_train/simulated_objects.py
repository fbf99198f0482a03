"""``simulated_objects.list``: the point sources that were inserted into images, as gmadet writes them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.errors import SourceError
from otrain_train.outputs import check_own_list

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]

LIST_NAME = "simulated_objects.list"
COLUMNS = ("idx", "filename", "Xpos", "Ypos", "RA", "Dec", "mag", "filter")
COUNT = "count_ADU"


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedObjects:
    """Sources that were inserted, one row each.

    Attributes
    ----------
    idx
        int64 (n,): the number of each in its list.
    files
        Text (n,): the image; its path begins in the folder of the list.
    x, y
        float64 (n,): position (pixels, the first being 1).
    ra, dec
        float64 (n,) (degrees), NaN where an image has no WCS.
    mags
        float64 (n,) (magnitudes).
    filters
        Text (n,).
    counts
        float64 (n,): what was added to the image (ADU); negative for sources that vanish, NaN if a list does not say.
    """

    idx: npt.NDArray[np.int64]
    files: Texts
    x: Floats
    y: Floats
    ra: Floats
    dec: Floats
    mags: Floats
    filters: Texts
    counts: Floats

    def __len__(self) -> int:
        return len(self.idx)

    @classmethod
    def joined(cls, parts: Sequence["SimulatedObjects"]) -> "SimulatedObjects":
        """Put lists one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))

    @classmethod
    def numbered(cls, parts: Sequence["SimulatedObjects"]) -> "SimulatedObjects":
        """Put lists one after the other, and number the sources from 0 on."""
        every = cls.joined(parts)
        return replace(every, idx=np.arange(len(every)))

    @property
    def names(self) -> Texts:
        """Text (n,): the images without their folders."""
        return np.array([Path(file).name for file in self.files.tolist()], np.str_)

    def write(self, path: Path) -> None:
        """Write them as a list of gmadet, with the further column ``count_ADU``.

        Raises
        ------
        OutputError
            When the file cannot be written.
        """
        from astropy.table import Table

        columns = (self.idx, self.files, self.x, self.y, self.ra, self.dec, self.mags, self.filters, self.counts)
        table = Table(dict(zip((*COLUMNS, COUNT), columns, strict=True)))
        formats = {"Xpos": "%.4f", "Ypos": "%.4f", "RA": "%.7f", "Dec": "%.7f", "mag": "%.4f", COUNT: "%.6g"}
        with replacing(path) as part:
            table.write(part, format="ascii.commented_header", formats=formats, overwrite=True)


def check_own(path: Path) -> None:
    """See to it that a list that is there may be replaced: one of another program stays.

    Raises
    ------
    OutputError
        When it is not one that `SimulatedObjects.write` has written.
    """
    check_own_list(path, (*COLUMNS, COUNT), "otrain-sim")


def read_simulated_objects(path: Path) -> SimulatedObjects:
    """Read a list.

    Raises
    ------
    SourceError
        When it cannot be read, or lacks a column.
    """
    from astropy.io import ascii as astropy_ascii

    try:
        options = {"converters": {"filename": str, "filter": str}, "fast_reader": False}
        table = astropy_ascii.read(path.read_text(), format="commented_header", guess=False, **options)
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise SourceError(f"the list '{path}' of simulated sources cannot be read ({said})") from None
    missing = [name for name in COLUMNS if name not in table.colnames]
    if missing:
        raise SourceError(
            f"the list '{path}' has no column {' '.join(missing)}: a list of simulated sources has the columns "
            f"{' '.join(COLUMNS)}"
        )
    numbers = {name: _numbers(table[name]) for name in ("Xpos", "Ypos", "RA", "Dec", "mag")}
    texts = {name: np.array(np.ma.filled(table[name].astype(str), ""), np.str_) for name in ("filename", "filter")}
    return SimulatedObjects(
        idx=np.asarray(_numbers(table["idx"]), np.int64),
        files=texts["filename"],
        x=numbers["Xpos"],
        y=numbers["Ypos"],
        ra=numbers["RA"],
        dec=numbers["Dec"],
        mags=numbers["mag"],
        filters=texts["filter"],
        counts=_numbers(table[COUNT]) if COUNT in table.colnames else np.full(len(table), np.nan),
    )


def find_lists(folder: Path) -> list[Path]:
    """List the lists of simulated sources in a folder and those in it."""
    return sorted(folder.rglob(f"*{LIST_NAME}"))


def _numbers(column: npt.ArrayLike) -> Floats:
    values = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    return np.asarray(values, np.float64)
