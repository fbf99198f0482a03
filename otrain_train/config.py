"""Options of the training commands, from the command line and from a YAML file, and how they show their progress."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from otrain_infer.command import Parser, progress
from otrain_infer.errors import UsageError

Progress = Callable[[int, int, str], None]
"""Takes how much is done of all there is, and a few words."""

CONFIG, PRINT_CONFIG = "--config", "--print-config"


class ConfigParser(Parser):
    """A parser whose options may also stand in a YAML file, under their names without dashes before them.

    Each key is put before what the command line says, as the option of that name: both are checked alike, an option
    that must be given may be given in either, and what the command line says comes last and counts.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_argument(CONFIG, metavar="FILE.yaml", type=Path, help="file with options; the command line overrides")
        self.add_argument(PRINT_CONFIG, action="store_true", help="print all options as such a file, and end")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments, those of the file that ``--config`` names first."""
        given = sys.argv[1:] if args is None else list(args)
        from_file = self._from_file(given)
        parsed, rest = super().parse_known_args([*from_file, *given], namespace)
        if parsed.print_config:
            sys.stdout.write(self.to_yaml(parsed))
            self.exit()
        return parsed, rest

    def to_yaml(self, parsed: argparse.Namespace) -> str:
        """Write parsed options as a file for ``--config``, those without a value left out."""
        content = {}
        for action in self._options():
            value = getattr(parsed, action.dest)
            if value is not None:
                content[_key(action)] = _plain(value, action.nargs is None)
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def _options(self) -> list[argparse.Action]:
        known = ("help", "version", "verbose", "config", "print_config")
        return [action for action in self._actions if action.dest not in known]

    def _from_file(self, given: Sequence[str]) -> list[str]:
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
        finder.add_argument(CONFIG, type=Path)
        path: Path | None = getattr(finder.parse_known_args(given)[0], "config", None)
        if path is None:
            return []
        try:
            return self._as_arguments(_read(path))
        except UsageError as error:
            self.error(f"the file '{path}' cannot be used: {error}")

    def _as_arguments(self, content: dict[str, Any]) -> list[str]:
        names = {option.removeprefix("--"): each for each in self._options() for option in each.option_strings}
        names |= {each.dest: each for each in self._options() if not each.option_strings}
        arguments: list[str] = []
        for key, value in content.items():
            action = names.get(key.replace("_", "-"), names.get(key))
            if action is None:
                raise UsageError(
                    f"it says '{key}', and {self.prog} has no such option (its options: {', '.join(names)})"
                )
            arguments += _as_option(action, key, value)
        return arguments


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (texts only, see there)
    except OSError as error:
        raise UsageError(f"it cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UsageError("it is not a text in UTF-8") from None
    except yaml.YAMLError as error:
        raise UsageError(f"it is not YAML ({' '.join(str(error).split())})") from None
    if content is None or content == "":
        return {}
    if not isinstance(content, dict):
        raise UsageError("it does not hold lines of the form 'option: value'")
    return {str(key): value for key, value in content.items()}


class _Loader(yaml.BaseLoader):
    """Reads every value as the text that it is: 1e-3 stays a number for whom it is one, and no stays a name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Give the mapping, in which no key may stand twice."""
        keys = [key.value for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise UsageError(f"it says '{min(twice)}' twice")
        return super().construct_mapping(node, deep)


def _as_option(action: argparse.Action, key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, list | dict) for each in values):
        raise UsageError(f"'{key}' is neither a value nor a list of values")
    if values in ([""], ["null"], ["~"]):
        return []
    option = list(action.option_strings[:1])
    if action.nargs == 0:
        if value not in ("true", "false"):
            raise UsageError(f"'{key}' is true or false, not '{value}'")
        return option if value == "true" else list(action.option_strings[1:2])
    if action.nargs is None:
        # With '=' a value that begins with a dash stays a value.
        return [f"{option[0]}={','.join(values)}"] if option else [",".join(values)]
    return [*option, *values]


def _key(action: argparse.Action) -> str:
    return (action.option_strings[0].removeprefix("--") if action.option_strings else action.dest).replace("-", "_")


def _plain(value: Any, alone: bool) -> Any:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) if alone else [_plain(each, alone) for each in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def plane_names(text: str) -> tuple[str, ...]:
    """Read names of planes, such as ``SCI,REF,DIFF``."""
    return tuple(plane.strip().upper() for plane in text.split(",") if plane.strip())


@contextmanager
def reporting(unit: str) -> Iterator[Progress]:
    """Give a function that shows how much is done, as a bar where stderr is a terminal."""
    with progress(0, unit) as bar:

        def report(done: int, total: int, words: str) -> None:
            bar.total = total
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)

        yield report
