"""A file is written whole or not at all: under a temporary name beside the final one, then renamed."""

import errno
import hashlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from otrain_infer.errors import OtrainError, OutputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, which takes the place of `path` when the block ends well.

    When the block raises, the temporary file is removed and whatever was at `path` stays. The remains of a run on this
    machine that was killed while it wrote the same file are removed.

    Parameters
    ----------
    path
        The final name. Its folder is made where it is missing.

    Yields
    ------
    Path
        In the same folder, with the same ending, not existing yet.

    Raises
    ------
    OutputError
        When the folder or the file cannot be written, or the disk is full.
    """
    final = Path(os.path.realpath(path))
    host = re.sub(r"[^\w]", "_", socket.gethostname())[:32]
    temporary = final.with_name(
        f".{_short(final.stem)}.{host}-{os.getpid()}-{threading.get_ident()}.part{final.suffix}"
    )
    try:
        if final.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if final.exists() and not final.is_file():
            raise OutputError(f"'{final}' is a device or a pipe, which no file can take the place of: name another")
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_remains(final, host)
        yield temporary
        _flush(temporary)
        os.replace(temporary, final)
    except OtrainError:
        raise
    except OSError as error:
        raise OutputError(f"'{final}' could not be written ({_reason(error)})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    # Libraries that write put what they know of a full disk into several sentences.
    return error.strerror or str(error).partition(". ")[0]


def _short(stem: str) -> str:
    # The temporary name must not be too long for the file system where the final one is not.
    if len(os.fsencode(stem)) <= 100:
        return stem
    return hashlib.sha256(os.fsencode(stem)).hexdigest()[:32]


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove_remains(final: Path, host: str) -> None:
    ours = re.compile(re.escape(f".{_short(final.stem)}.{host}-") + r"(\d+)-\d+\.part" + re.escape(final.suffix))
    for entry in os.listdir(final.parent):
        match = ours.fullmatch(entry)
        if match and not _is_running(int(match[1])):
            (final.parent / entry).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
