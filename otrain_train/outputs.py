"""Folders that commands fill: found out to be writable before the work, and never a mixture of two runs."""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from otrain_infer.atomic import replacing
from otrain_infer.errors import OutputError, UsageError

log = logging.getLogger(__name__)

HEAD = "# Pictures written by otrain. The next run removes those of them that it does not write anew.\n"


def prepare_folder(folder: Path, names: Iterable[str], inputs: Iterable[Path]) -> None:
    """Make a folder, and find out before the work whether its results can be written.

    Parameters
    ----------
    folder
        Is made where it is missing.
    names
        Of the files that will be written in it, with / between folders.
    inputs
        Files that must not be among them.

    Raises
    ------
    UsageError
        When an input would be replaced.
    OutputError
        When the folder cannot be written, or has a folder of the name of a file.
    """
    results = [folder / name for name in names]
    for source in inputs:
        if any(_same(source, result) for result in results):
            raise UsageError(f"'{source}' would be replaced by a result: name another folder than '{folder}'")
    for result in results:
        if result.is_dir():
            raise OutputError(f"'{result}' is a folder, and a file of that name is to be written: name another folder")
    make_folder(folder)


def make_folder(folder: Path) -> None:
    """Make a folder where it is missing; raises OutputError where nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"nothing can be written in '{folder}' ({error.strerror or error}): name another folder"
        ) from error


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Keep other processes from a folder while the block runs.

    The lock ends with the process, however that ends, and leaves no file. Where the file system knows no locks, as on
    some networks, there is none.

    Raises
    ------
    OutputError
        When another process has the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutputError(f"'{folder}' is being filled by another run: wait for it, or give another name") from None
    except OSError as error:
        log.debug("'%s' cannot be locked", folder, exc_info=error)
    try:
        yield
    finally:
        os.close(descriptor)


def _same(source: Path, result: Path) -> bool:
    try:
        return source.samefile(result)
    except OSError:
        return False


@contextmanager
def renewing(folder: Path, listing: str, names: Iterable[str]) -> Iterator[None]:
    """Write pictures in place of those of an earlier run.

    The names are kept in a list in the folder. When the block ends well, what the list of an earlier run named and this
    one did not write is removed; a run that was broken off is cleared away by the next. No other file is touched.

    Parameters
    ----------
    folder
        Where the pictures are.
    listing
        The name of the list in it.
    names
        Of the pictures that the block will write, below the folder, with / between folders, each ending in .png.

    Raises
    ------
    OutputError
        When the list cannot be written, or a file of its name is something else.
    """
    path, new = folder / listing, set(names)
    old = _read(path)
    _write(path, old | new)
    yield
    for name in sorted(old - new):
        try:
            (folder / name).unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("'%s', of an earlier run, cannot be removed (%s)", folder / name, error.strerror)
    _write(path, new)


def _read(path: Path) -> set[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return set()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text.startswith(HEAD):
        raise OutputError(f"'{path}' is no list of pictures written by otrain: move it elsewhere")
    return {name for name in text.removeprefix(HEAD).splitlines() if _is_ours(PurePosixPath(name))}


def _is_ours(name: PurePosixPath) -> bool:
    # A list that somebody has edited must not reach beyond the folder.
    return name.suffix == ".png" and not name.is_absolute() and ".." not in name.parts


def _write(path: Path, names: set[str]) -> None:
    with replacing(path) as part:
        part.write_text(HEAD + "".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")


def check_own_list(path: Path, columns: Iterable[str], command: str) -> None:
    """See to it that a list that is there may be replaced by a command: one of another program stays.

    Raises
    ------
    OutputError
        When its first line does not name the columns that the command writes, and no others.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline().split()
    except OSError:
        return
    if first and first[1:] != [*columns]:
        raise OutputError(f"'{path}' was not written by {command}, which would replace it: move it elsewhere")
