"""Options of the training commands, from the command line and from a YAML file, and how they show their progress."""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml

from otrain_infer.command import Parser, number, progress
from otrain_infer.errors import UsageError

Progress = Callable[[int, int, str], None]
"""Takes how much is done of all there is, and a few words."""

CONFIG, PRINT_CONFIG = "--config", "--print-config"

NULLS = ("", "~", "null")
"""What stands for no value in a file, where no quotes are about it."""

NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")
"""What argparse takes for a value although it begins with a dash."""


class ConfigParser(Parser):
    """A parser whose options may also stand in YAML files, under their names without dashes before them.

    Each key is put before what the command line says, as the option of that name: both are checked alike, an option
    that must be given may be given in either, and what the command line says comes last and counts. Of several files
    a later one counts more.
    """

    _file: Path | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument(
            CONFIG,
            metavar="FILE.yaml",
            type=Path,
            action="append",
            default=[],
            help="file with options; the command line overrides, and so does a second file",
        )
        self.add_argument(PRINT_CONFIG, action="store_true", help="print all options as such a file, and end")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments, those of the files that ``--config`` names first."""
        given = sys.argv[1:] if args is None else list(args)
        told: dict[str, list[str]] = {}
        with self._nothing_required():
            alone, _ = super().parse_known_args(given)
            for path in alone.config:
                told |= self._told_by(path)
            for action in self._options():
                if not action.option_strings and getattr(alone, action.dest) is not None:
                    told.pop(action.dest, None)
            # An option with one value at the end: a list of the file does not run on into the command line.
            arguments = [*self._in_order(told), *(f"{CONFIG}={path}" for path in alone.config), *given]
            if alone.print_config:
                parsed, unknown = super().parse_known_args(arguments, namespace)
                if unknown:
                    self.error(f"unrecognized arguments: {' '.join(unknown)}")
                sys.stdout.write(self.to_yaml(parsed))
                self.exit()
        parsed, unknown = super().parse_known_args(arguments, namespace)
        parsed.config = alone.config
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """End the command on wrong usage, in one line that names the file it is in."""
        super().error(f"the file '{self._file}' cannot be used: {message}" if self._file else message)

    def to_yaml(self, parsed: argparse.Namespace) -> str:
        """Write parsed options as a file for ``--config``."""
        content = {_key(each): _plain(getattr(parsed, each.dest), each.nargs is None) for each in self._options()}
        # What is redirected to a file in another encoding than UTF-8 could not be read again: escape it there.
        readable = (sys.stdout.encoding or "").lower() == "utf-8"
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=readable, width=math.inf)
        return f"# options of {self.prog}, for --config\n{text}"

    @contextmanager
    def _nothing_required(self) -> Iterator[None]:
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        try:
            yield
        finally:
            for action in required:
                action.required = True

    def _options(self) -> list[argparse.Action]:
        known = ("help", "version", "verbose", "config", "print_config")
        return [action for action in self._actions if action.dest not in known]

    def _told_by(self, path: Path) -> dict[str, list[str]]:
        # The arguments for each option that a file names; parsed once on their own, so that errors name the file.
        self._file = path
        try:
            told = self._as_arguments(_read(path))
            super().parse_known_args(self._in_order(told))
            return told
        except UsageError as error:
            self.error(str(error))
        finally:
            self._file = None

    def _in_order(self, told: dict[str, list[str]]) -> list[str]:
        # What stands without an option comes first, where no list before it can swallow it.
        alone = [each.dest for each in self._options() if not each.option_strings]
        return [each for dest in sorted(told, key=lambda dest: dest not in alone) for each in told[dest]]

    def _as_arguments(self, content: dict[str, Any]) -> dict[str, list[str]]:
        names = self._names()
        keys: dict[str, str] = {}
        told: dict[str, list[str]] = {}
        for key, value in content.items():
            action = names.get(key.replace("_", "-"))
            if action is None:
                near = difflib.get_close_matches(key.replace("_", "-"), names, n=1)
                meant = f": did you mean '{near[0].replace('-', '_')}'?" if near else ""
                raise UsageError(f"it says '{key}', and {self.prog} has no such option{meant}")
            if action.dest in keys:
                raise UsageError(f"it says '{keys[action.dest]}' and '{key}', which are the same option")
            keys[action.dest] = key
            if value is not None:
                told[action.dest] = _as_option(action, key, value)
        return told

    def _names(self) -> dict[str, argparse.Action]:
        # Of an option that is on or off, only the name for on: the file says true or false.
        names = {}
        for action in self._options():
            strings = action.option_strings or [action.dest.replace("_", "-")]
            for name in strings[:1] if action.nargs == 0 else strings:
                names[name.removeprefix("--")] = action
        return names


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 (texts only, see there)
    except OSError as error:
        raise UsageError(f"it cannot be read ({error.strerror or error})") from None
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        line = f" in line {where.line + 1}" if where else ""
        raise UsageError(f"it is not YAML ({error.problem or error.context}{line})") from None
    except yaml.reader.ReaderError as error:
        raise UsageError(f"it is not a text in UTF-8 ({error.reason})") from None
    except RecursionError:
        raise UsageError("it is not YAML that makes sense (its lists are too deep)") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError("it does not hold lines of the form 'option: value'")
    return {str(key): value for key, value in content.items()}


class _Loader(yaml.BaseLoader):
    """Reads every value as the text that it is: 1e-3 stays a number for whom it is one, and no stays a name."""

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """Give the text; None where there is none and no quotes say that the empty text is meant."""
        return None if node.style is None and node.value.lower() in NULLS else super().construct_scalar(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Give the mapping, in which no key may stand twice."""
        keys = [str(key.value) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise UsageError(f"it says '{min(twice)}' twice")
        return super().construct_mapping(node, deep)


def _as_option(action: argparse.Action, key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise UsageError(f"'{key}' is neither a value nor a list of values")
    if action.nargs == 0:
        return _as_flag(action, key, value)
    option = list(action.option_strings[:1])
    if action.nargs is None:
        if isinstance(value, list) and action.type is not plane_names:
            raise UsageError(f"'{key}' takes one value, not a list")
        text = ",".join(values)
        # With '=' a value that begins with a dash stays a value.
        return [f"{option[0]}={text}"] if option else [_positional(key, text)]
    return [*option, *(_positional(key, each) for each in values)]


def _as_flag(action: argparse.Action, key: str, value: Any) -> list[str]:
    word = value.lower() if isinstance(value, str) else ""
    if word in ("true", "yes", "on"):
        return list(action.option_strings[:1])
    if word in ("false", "no", "off"):
        return list(action.option_strings[1:2])
    raise UsageError(f"'{key}' is true or false, not '{value}'")


def _positional(key: str, value: str) -> str:
    if value.startswith("-") and not NEGATIVE.fullmatch(value):
        raise UsageError(f"'{key}' begins with a dash where it says '{value}', as only options do")
    return value


def _key(action: argparse.Action) -> str:
    return (action.option_strings[0].removeprefix("--") if action.option_strings else action.dest).replace("-", "_")


def _plain(value: Any, alone: bool) -> Any:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) if alone else [_plain(each, alone) for each in value]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def plane_names(text: str) -> tuple[str, ...]:
    """Read names of planes, such as ``SCI,REF,DIFF``."""
    return tuple(plane.strip().upper() for plane in text.split(",") if plane.strip())


class LabellerWeights(dict[str, float]):
    """What the votes of labellers count; as text it can be read again."""

    def __str__(self) -> str:
        return ",".join(f"{name}={weight:g}" for name, weight in self.items())


def labeller_weights(text: str) -> LabellerWeights:
    """Read what the votes of labellers count, such as ``ada=2,bob=1``."""
    weights = LabellerWeights()
    for each in filter(None, text.split(",")):
        name, equals, value = each.rpartition("=")
        if not (equals and name.strip()):
            raise argparse.ArgumentTypeError(f"'{each}' is not of the form name=weight")
        weights[name.strip()] = number(value)
    return weights


def add_rule(parser: ConfigParser) -> None:
    """Add the options that say when votes make a label, as of `otrain_train.verdicts.Rule`."""
    option = parser.add_argument
    option("--min-votes", type=int, default=1, help="votes for true or false that a candidate must have")
    option("--min-agreement", type=number, default=0.5, help="part of the votes that the majority must have")
    option("--weights", type=labeller_weights, default="", help="what votes count, as in ada=2,bob=0.5; else 1")


@contextmanager
def reporting(unit: str) -> Iterator[Progress]:
    """Give a function that shows how much is done, as a bar where stderr is a terminal."""
    with progress(0, unit) as bar:

        def report(done: int, total: int, words: str) -> None:
            bar.total = total
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)

        yield report
