"""A table in plain text that grows at its end, and is whole up to there whatever happens."""

import errno
import io
import logging
import os
from pathlib import Path

from otrain_infer.errors import OutputError, UsageError
from otrain_infer.table import DELIMITERS, FORMATS, Columns, write_rows

log = logging.getLogger("otrain.stream")

_FULL = (errno.ENOSPC, errno.EDQUOT)


class FullError(Exception):
    """There is no room for more rows; none of these has been added."""


class GrowingTable:
    """A table to which rows are added, each time all or none of them, and on the disk when that is done.

    Parameters
    ----------
    path
        Ends in .csv or .dat. Where there is a table of the same columns already, it goes on behind its last whole row.

    Raises
    ------
    UsageError
        When it ends otherwise.
    OutputError
        When it cannot be written.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._format = FORMATS.get(Path(path).suffix.lower(), "")
        if self._format not in DELIMITERS:
            raise UsageError(f"'{path}' cannot grow: a table of a stream ends in .csv or .dat")
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refuse(error) from None
        self._open()

    def append(self, columns: Columns) -> None:
        """Add rows.

        Raises
        ------
        FullError
            When there is no room for them.
        OutputError
            When they cannot be written, or are of other columns.
        """
        if not self._is_in_place():  # moved away or removed: what is written there would be lost
            log.warning("'%s' is there no more: it begins anew", self._path)
            self._file.close()
            self._open()
        text = io.StringIO()
        write_rows(text, DELIMITERS[self._format], columns)
        head, _, rows = text.getvalue().partition("\n")
        content = rows if self._stop else text.getvalue()
        self._check(head)
        try:
            self._file.truncate(self._stop)
            self._write(content.encode())
        except OSError as error:
            self._file.truncate(self._stop)
            if error.errno in _FULL:
                raise FullError(f"'{self._path}' cannot grow ({error.strerror})") from None
            raise self._refuse(error) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _open(self) -> None:
        try:
            self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 (closed by `close`)
            _lock(self._file)
            self._stop = _whole(self._file)
        except BlockingIOError:
            self._file.close()
            raise OutputError(f"another process writes the table '{self._path}': name another") from None
        except OSError as error:
            raise self._refuse(error) from None

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), Path(self._path).stat())
        except OSError:
            return False

    def _check(self, head: str) -> None:
        self._file.seek(0)
        wanted = head.encode() + b"\n"
        found = self._file.read(len(wanted))
        if found != wanted and (self._stop or not wanted.startswith(found)):
            raise OutputError(f"'{self._path}' has other columns than these: name another table, or move it away")

    def _write(self, content: bytes) -> None:
        remaining = memoryview(content)
        while remaining:
            remaining = remaining[self._file.write(remaining) :]
        os.fsync(self._file.fileno())
        self._stop += len(content)

    def _refuse(self, error: OSError) -> OutputError:
        return OutputError(f"the table '{self._path}' cannot be written ({error.strerror})")


def _lock(file: io.FileIO) -> None:
    """Keep other processes from writing as well; raises BlockingIOError where one does already."""
    if os.name == "posix":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _whole(file: io.FileIO) -> int:
    """Give where the last whole line ends."""
    size = file.seek(0, os.SEEK_END)
    at = size
    while at > 0:
        start = max(0, at - (1 << 16))
        file.seek(start)
        place = file.read(at - start).rfind(b"\n")
        if place >= 0:
            return start + place + 1
        at = start
    return 0
