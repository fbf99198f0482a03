"""The journal of votes, labels.csv: a line for each vote, on the disk before it counts, and what stands in the end."""

import csv
import io
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path

from otrain_infer.errors import OutputError, SourceError

try:
    import fcntl
except ImportError:  # where there is no such lock, two processes had better not write the same file
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

TRUE, FALSE, UNSURE, NONE = "true", "false", "unsure", "none"
CHOICES = (TRUE, FALSE, UNSURE, NONE)
"""What can be voted; none takes an earlier vote back."""

OPEN, BLIND, AGAIN = "open", "blind", "again"
LOOKS = (OPEN, BLIND, AGAIN)
"""How a candidate was looked at."""

ID = re.compile(r"[0-9a-f]{32}")
"""What tells a vote from all others: of one length, so that a line that was cut short is known for it."""

_FORMULA = "=+-@"
_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Vote:
    r"""A vote, as a line of labels.csv holds it.

    Texts are escaped there as in ``new\x0aline``, and so is a first character that a spreadsheet takes for the
    beginning of a formula: a vote is always one line, and read back as it was.

    Attributes
    ----------
    time
        When it was received (UTC, ISO 8601).
    labeller
        Who voted.
    candidate
        On what: its key as of `otrain_train.candidate_folder`.
    candid
        Its CANDID, empty where it has none.
    vote
        One of `CHOICES`.
    model
        The models whose scores were shown with it, with a semicolon between two; empty where none was.
    score
        Those scores, likewise.
    look
        One of `LOOKS`: ``blind`` where neither score nor votes were shown, ``again`` where besides a vote of the same
        labeller stood, which the page did not say.
    place
        Where in the order on the page the candidate stood, from 0.
    order
        That order.
    id
        32 hexadecimal digits; a second vote with the same is the same vote.
    """

    time: str
    labeller: str
    candidate: str
    candid: str
    vote: str
    model: str
    score: str
    look: str
    place: str
    order: str
    id: str

    def to_line(self) -> bytes:
        """Give the line of the journal."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([escape(each) for each in astuple(self)])
        return text.getvalue().encode()


COLUMNS = tuple(each.name for each in fields(Vote))
HEADER = (",".join(COLUMNS) + "\n").encode()
_MARK = b"\xef\xbb\xbf"


def _after_header(content: bytes) -> bytes | None:
    """Give the lines that follow the first, or None where that is another; as it is after a spreadsheet, too."""
    own = content.removeprefix(_MARK).replace(b"\r\n", b"\n")
    return own.removeprefix(HEADER) if own.startswith(HEADER) else None


def escape(text: str) -> str:
    """Write a text so that it has no line ends, nothing that cannot be shown, and begins no formula."""
    shown = text if text.isprintable() and "\\" not in text else "".join(map(_escape, text))
    return _numbered(shown[0]) + shown[1:] if shown.startswith(tuple(_FORMULA)) else shown


def unescape(text: str) -> str:
    """Give back what `escape` was given."""
    return _ESCAPED.sub(lambda found: "\\" if found[1] == "\\" else chr(int(found[1][1:], 16)), text)


def _escape(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    return letter if letter.isprintable() else _numbered(letter)


def _numbered(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 1 << 8 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


@dataclass(slots=True)
class Look:
    """A blind second look of a labeller at a candidate: what the vote was then, and what it is without knowing that."""

    before: str
    now: str


@dataclass(slots=True)
class Tally:
    """What stands after some votes, in the order in which they were written.

    Of several votes of a labeller on a candidate the last one stands, or none where it takes them back. One of a blind
    second look is kept beside, and changes nothing.

    Attributes
    ----------
    standing
        Candidate -> labeller -> what stands: true, false or unsure.
    looks
        Labeller -> candidate -> the last second look.
    candids
        Candidate -> its CANDID, where it was known.
    latest
        Labeller -> candidates voted on, the latest last.
    votes
        How many lines were votes.
    damaged
        Numbers of the lines that were none, such as one that was being written when the machine went down; the first
        line of the file is 1.
    """

    standing: dict[str, dict[str, str]] = field(default_factory=dict)
    looks: dict[str, dict[str, Look]] = field(default_factory=dict)
    candids: dict[str, str] = field(default_factory=dict)
    latest: dict[str, list[str]] = field(default_factory=dict)
    votes: int = 0
    damaged: list[int] = field(default_factory=list)
    _ids: set[str] = field(default_factory=set)

    def __contains__(self, vote_id: str) -> bool:
        return vote_id in self._ids

    def add(self, vote: Vote) -> None:
        """Count a vote; one that has been counted is not counted again."""
        if vote.id in self._ids:
            return
        self._ids.add(vote.id)
        self.votes += 1
        if vote.candid:
            self.candids[vote.candidate] = vote.candid
        standing = self.standing.setdefault(vote.candidate, {})
        self.latest.setdefault(vote.labeller, []).append(vote.candidate)
        looks = self.looks.setdefault(vote.labeller, {})
        if vote.look == AGAIN and vote.vote == NONE:
            looks.pop(vote.candidate, None)
        elif vote.look == AGAIN and vote.labeller in standing:
            looks[vote.candidate] = Look(standing[vote.labeller], vote.vote)
        elif vote.vote == NONE:
            standing.pop(vote.labeller, None)
        else:
            standing[vote.labeller] = vote.vote

    def of(self, labeller: str) -> dict[str, str]:
        """Give what stands of a labeller: candidate -> vote."""
        return {name: votes[labeller] for name, votes in self.standing.items() if labeller in votes}

    @property
    def labellers(self) -> list[str]:
        """All who have voted, by name."""
        return sorted(self.latest)


class Journal:
    """The file labels.csv: votes are appended to it, by any number of threads and processes, and read from it.

    Parameters
    ----------
    path
        The file, made with its first line where there is none.

    Attributes
    ----------
    state
        Tells what was counted from what was counted before somebody changed the file otherwise than by appending.

    Raises
    ------
    OutputError
        When it cannot be written.
    SourceError
        When it is something else than votes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._start_over()
        with self._open() as file:
            self._begin(file)
        with self.reading():
            pass

    def _start_over(self) -> None:
        self.state = secrets.token_hex(4)
        self._tally = Tally()
        self._read, self._lines = 0, 0
        self._end = b""  # the last that was read
        self._file = (0, 0)  # inode and time of change of the file that it was read from

    @contextmanager
    def reading(self) -> Iterator[Tally]:
        """Count what has been appended since, by whomever, and give what stands: it does not change meanwhile."""
        with self._lock:
            self._take_in()
            yield self._tally

    def append(self, votes: Iterable[Vote]) -> list[str]:
        """Write votes to the disk, but for those that are there already, and count them.

        Returns
        -------
        list of str
            The ids of all that are on the disk now: those of all the votes.

        Raises
        ------
        OutputError
            When they could not be written; none of them counts then.
        """
        votes = list(votes)
        with self._lock, self._open() as file:
            self._begin(file)
            self._take_in()
            fresh = {vote.id: vote for vote in votes if vote.id not in self._tally}
            content = b"".join(vote.to_line() for vote in fresh.values())
            if content:
                _append(file, content)
            self._take_in()
        return [vote.id for vote in votes]

    @contextmanager
    def _open(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            file = os.open(self.path, flags, 0o666)
            try:
                if fcntl:
                    with suppress(OSError):  # some file systems know of no locks; O_APPEND keeps lines whole there
                        fcntl.flock(file, fcntl.LOCK_EX)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            if isinstance(error, OutputError | SourceError):
                raise
            raise OutputError(f"votes cannot be written to '{self.path}' ({error.strerror or error})") from error

    def _begin(self, file: int) -> None:
        # Whole again: the first line is there, and what follows begins a line.
        size = os.fstat(file).st_size
        first = os.pread(file, len(_MARK) + len(HEADER) + 1, 0)
        if _after_header(first) is None:
            if not HEADER.startswith(first):
                raise SourceError(f"'{self.path}' holds no votes of otrain-label: name another file with --labels")
            os.ftruncate(file, 0)
            _append(file, HEADER)
        elif os.pread(file, 1, size - 1) != b"\n":
            _append(file, b"\n")

    def _take_in(self) -> None:
        try:
            with open(self.path, "rb") as file:
                if self._read and self._is_another(file.fileno()):
                    self._start_over()
                status = os.fstat(file.fileno())
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            self._start_over()
            return
        except OSError as error:
            raise SourceError(f"'{self.path}' cannot be read ({error.strerror or error})") from None
        whole = content[: content.rfind(b"\n") + 1]
        count_lines(self._tally, whole if self._read else _after_header(whole) or b"", self._lines)
        self._lines += whole.count(b"\n")
        self._read += len(whole)
        self._end = (self._end + whole)[-_COMPARED:]
        self._file = status.st_ino, status.st_mtime_ns

    def _is_another(self, file: int) -> bool:
        """Whether more has happened to the file than that lines were appended: an editor writes all of it anew."""
        status = os.fstat(file)
        inode, changed = self._file
        return (
            status.st_ino != inode
            or status.st_size < self._read
            or (status.st_size == self._read and status.st_mtime_ns != changed)
            or os.pread(file, len(self._end), self._read - len(self._end)) != self._end
        )


_COMPARED = 256
"""Bytes at the end of what was read by which it is known again: the id of a vote is among them."""


def _append(file: int, content: bytes) -> None:
    size = os.fstat(file).st_size
    try:
        written = os.write(file, content)
        if written < len(content):
            raise OSError(28, "the disk is full")
        os.fsync(file)
    except OSError:
        with suppress(OSError):  # what was cut short would only be in the way
            os.ftruncate(file, size)
        raise


def count_lines(tally: Tally, content: bytes, before: int = 0) -> None:
    """Count the votes in lines of a journal that come after so many others, the first line of the file left out."""
    lines = content.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")
    for number, line in enumerate(lines, max(before, 1) + 1):
        vote = _parse(line) if line else None
        if vote:
            tally.add(vote)
        elif line:
            tally.damaged.append(number)


def read_line(line: str, columns: int) -> list[str] | None:
    """Give the texts in a line of a journal, or None where it has not so many: it was cut short."""
    try:
        (row,) = csv.reader([line], strict=True)
    except (csv.Error, ValueError):
        return None
    return [unescape(text) for text in row] if len(row) == columns else None


def _parse(line: str) -> Vote | None:
    row = read_line(line, len(COLUMNS))
    if row is None:
        return None
    vote = Vote(*row)
    vote = replace(vote, vote=vote.vote.lower(), look=vote.look.lower())  # spreadsheets write TRUE and FALSE
    known = vote.vote in CHOICES and vote.look in LOOKS and ID.fullmatch(vote.id)
    return vote if known and vote.candidate and vote.labeller else None


def read_votes(path: str | os.PathLike[str]) -> Tally:
    """Read a journal and give what stands; a last line that was cut short does not count.

    Raises
    ------
    SourceError
        When it cannot be read, or is something else.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"the votes '{path}' cannot be read ({error.strerror or error})") from None
    lines = _after_header(content)
    if lines is None:
        raise SourceError(f"'{path}' holds no votes of otrain-label: its first line is not {HEADER.decode().strip()}")
    tally = Tally()
    count_lines(tally, lines)
    if tally.damaged:
        log.warning(
            "'%s': %d line(s) are no votes and are left out, the first is line %d: a vote has %d values, one of %s as "
            "its vote, and an id of 32 hexadecimal digits",
            path, len(tally.damaged), tally.damaged[0], len(COLUMNS), ", ".join(CHOICES),
        )  # fmt: skip
    return tally
