"""The frame of every command: options, logging, exit codes, progress."""

import _thread
import argparse
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from otrain_infer import __version__
from otrain_infer.errors import OtrainError

DONE, NOTHING_SCORED, WRONG = 0, 1, 2
"""Exit codes: done; nothing could be scored; wrong usage or a named error."""

_MOMENT = 0.01  # s

LOGGERS = ("otrain", "otrain_infer", "otrain_train")

log = logging.getLogger("otrain")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required or action.default is None or action.default == "":
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser in which dashes and underscores of options are interchangeable."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _Help)
        super().__init__(allow_abbrev=False, **settings)
        self.add_argument("-v", "--verbose", action="store_true", help="tell more, and show the traceback of errors")
        self.add_argument("--version", action="version", version=f"otrain {__version__}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments, dashes and underscores of options alike."""
        args = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_with_dashes(each) for each in args], namespace)

    def error(self, message: str) -> NoReturn:
        """End the command on wrong usage, in one line."""
        self.exit(WRONG, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _with_dashes(argument: str) -> str:
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value


def run(parser: Parser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None) -> int:
    """Parse the command line, run the command, and turn what went wrong into one line and an exit code.

    Parameters
    ----------
    parser
        Of the command.
    command
        Does the work and gives the exit code.
    argv
        Arguments; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    previous, sys.unraisablehook = sys.unraisablehook, _raise_interrupts_again
    try:
        return _run(parser, command, argv)
    finally:
        sys.unraisablehook = previous


def _run(parser: Parser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    _configure_logging(parser.prog, logging.INFO)
    try:
        arguments = parser.parse_args(argv)
    except (SystemExit, OSError):
        if not _flush_stdout():  # of --help or --print-config
            return WRONG
        raise
    if arguments.verbose:
        _configure_logging(parser.prog, logging.DEBUG)
    _escape_what_stdout_cannot_show()
    try:
        code = command(arguments)
        return code if _flush_stdout() else WRONG
    except OtrainError as error:
        log.error("%s", error, exc_info=arguments.verbose)
        return WRONG
    except ModuleNotFoundError as error:
        log.error("%s is not installed: %s needs pip install 'otrain[train]'", error.name, parser.prog)
        log.debug("", exc_info=True)
        return WRONG
    except BrokenPipeError:
        _forget_stdout()
        return DONE
    except OSError as error:
        if _flush_stdout():  # else it has said what is wrong
            named = f"'{str(error.filename)[:200]}'" if error.filename else "a file or stdout"
            log.error("%s cannot be read or written (%s)", named, error.strerror or error, exc_info=arguments.verbose)
        return WRONG
    except MemoryError as error:
        log.error("there is not enough memory for that (%s)", error or "no more is known", exc_info=arguments.verbose)
        return WRONG
    except KeyboardInterrupt:
        log.error("interrupted")
        return 128 + signal.SIGINT


def _raise_interrupts_again(unraisable: Any) -> None:
    # A Ctrl-C that falls into what a library calls back, such as while kernels are loaded, is lost there, and would be
    # here: it comes again a moment later.
    if unraisable.exc_type is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
        again = threading.Timer(_MOMENT, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(unraisable)


def _flush_stdout() -> bool:
    """Write out what is waiting for stdout; tell whether it could be written."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
    except OSError as error:
        log.error("stdout cannot be written (%s)", error.strerror)
        _forget_stdout()
        return False
    return True


def _forget_stdout() -> None:
    # Nobody reads it, or nothing can be written; the interpreter must not complain of that at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _configure_logging(name: str, level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))
    for logger in map(logging.getLogger, LOGGERS):
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)


def _escape_what_stdout_cannot_show() -> None:
    # A file name may hold what the user's locale cannot encode; that must not cost the result at the very end.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def score(text: str) -> float:
    """Read a score of the command line."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a score from 0 to 1")
    return value


def number(text: str) -> float:
    """Read a number of the command line."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None


def progress(total: int | None, unit: str) -> Any:
    """Give a tqdm progress bar on stderr, silent where that is no terminal; `total` is None where it is not known."""
    from tqdm import tqdm

    # Without stderr there is nowhere to draw; None asks tqdm to draw on terminals only.
    return tqdm(total=total, unit=f" {unit}", disable=True if sys.stderr is None else None, leave=False)


def available_processors() -> int:
    """Count the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
