"""The commands otrain-infer and otrain-model: one parser, one short function each."""

import codecs
import glob
import logging
import math
import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from otrain_infer.command import DONE, NOTHING_SCORED, Parser, available_processors, number, progress, run, score
from otrain_infer.errors import OutputError, SourceError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from otrain_infer.cutouts import Cutouts
    from otrain_infer.flags import CutoutFlag
    from otrain_infer.scorer import Scorer

    Part = tuple[Cutouts, npt.NDArray[np.float32], npt.NDArray[np.float32]]

log = logging.getLogger("otrain.infer")

REASONS_TOLD = 5
"""Of so many unusable cutouts the summary says what is wrong with them; the table flags them all."""


def _ratio(text: str) -> float:
    value = number(text)
    if not (math.isfinite(value) and value > 0):
        raise ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def _infer_parser() -> Parser:
    parser = Parser(prog="otrain-infer", description="Give each cutout the probability of being real.")
    option = parser.add_argument
    option(
        "--cutouts",
        nargs="+",
        required=True,
        help="folder of FITS cutouts or of alert packets (.avro, also .gz and in tars, .parquet), files, a glob, "
        "@LIST with one path a line, or one datacube .npz",
    )
    option("--model", help="ONNX file with its card; if not given, the embedded demonstration model")
    option("--prob-ratio", type=_ratio, default=1.0, help="real-to-bogus ratio of the stream over the training's")
    option(
        "--output",
        help="table to write, .dat .csv .ecsv .fits .vot or .parquet; if not given, infer_results.dat in the folder of "
        "the cutouts, or here if they are in several",
    )
    option("--edge", choices=("score", "skip"), default="score", help="skip gives cutouts at an edge no score")
    option("--threshold", type=score, help="score from which a candidate is called real; if not given, the model's")
    option("--batch-size", type=int, help="cutouts given to the network at a time; if not given, chosen")
    option("--device", default="cpu", help="cpu, cuda, cuda:N, several GPUs as cuda:N,M, or auto")
    option(
        "--precision",
        choices=("auto", "int8", "fp32"),
        default="auto",
        help="of a model with an int8 copy: int8, fp32, or auto: int8 where the processor is fast at it, and fp32 for "
        "scores near a threshold; if not given, auto",
    )
    option("--threads", type=int, help="threads that read and score; if not given, one a processor")
    option(
        "--mapping",
        metavar="FILE.yaml",
        help="where alert packets keep planes and columns; if not given, told by their schema",
    )
    option(
        "--schema",
        metavar="FILE|DIR|URL",
        help="schema of alert packets that do not carry it: a file .avsc, a folder of them, or a schema registry",
    )
    return parser


def infer(argv: Sequence[str] | None = None) -> int:
    """Run otrain-infer."""
    return run(_infer_parser(), _infer, argv)


def _infer(arguments: Namespace) -> int:
    from otrain_infer import table
    from otrain_infer.scorer import Scorer, correct_for_ratio, correct_spread_for_ratio

    for_packets = bool(arguments.mapping or arguments.schema)
    sources = _find_sources(arguments.cutouts, for_packets)
    if for_packets and (cutout := next(filter(_is_cutout, sources), None)):
        raise UsageError(f"--mapping and --schema are for alert packets, and '{cutout}' is none")
    output = arguments.output or _default_output(sources)
    table.check_output(output)
    _check_output(output, sources)
    threads = available_processors() if arguments.threads is None else arguments.threads
    scorer = Scorer(arguments.model, arguments.device, threads, arguments.batch_size, arguments.precision)
    _announce(scorer, arguments)
    tally = _Tally(scorer.card.threshold if arguments.threshold is None else arguments.threshold)
    model, ratio = scorer.identity, arguments.prob_ratio
    with table.writing(output) as write:
        for cutouts, scores, spreads in _score(scorer, sources, arguments):
            if arguments.edge == "skip":
                scores[cutouts.at_edge] = spreads[cutouts.at_edge] = math.nan
            corrected = correct_for_ratio(scores, ratio)
            beside = correct_spread_for_ratio(spreads, scores, ratio) if scorer.has_spread else None
            write(table.build_columns(cutouts, corrected, model, beside))
            tally.add(cutouts, corrected)
    print(output)
    if scorer.rescored:
        log.info("%d scores near a threshold were computed in fp32 again", scorer.rescored)
    return tally.tell()


def _find_sources(named: Sequence[str], packets_first: bool = False) -> list[str]:
    """List the files to be scored, and refuse what cannot have been meant; a datacube stands alone."""
    from otrain_infer.packet_sources import is_packet_file
    from otrain_infer.sources import SUFFIXES

    sources: list[str] = []
    expanded = {each: _expand(each) for each in named}
    empty = [SourceError(f"'{each}' matches no file") for each, paths in expanded.items() if not paths]
    for path in chain.from_iterable(map(expanded.__getitem__, named)):
        if path.startswith("@") and not os.path.lexists(path):
            sources += _read_list(path[1:])
        elif os.path.isdir(path):
            try:
                sources += _list_folder(path, packets_first)
            except SourceError as error:
                empty.append(error)
        elif os.path.lexists(path) or path.lower().endswith(SUFFIXES):
            sources.append(path)
        else:
            raise SourceError(f"there is no folder or file '{path}'")
    if not sources:
        raise empty[0]
    for why in empty:
        log.warning("%s: passed over", why)
    if not any(map(os.path.lexists, sources)):
        more = f", nor any of {len(sources) - 1} more" if len(sources) > 1 else ""
        raise SourceError(f"there is no file '{sources[0]}'{more}")
    if len(sources) > 1 and any(map(_is_datacube, sources)):
        raise UsageError("a datacube is scored alone: name one .npz file and nothing else")
    packets = sum(map(is_packet_file, sources))
    if 0 < packets < len(sources) and any(each.lower().endswith(SUFFIXES) for each in sources):
        raise UsageError("cutouts and alert packets are scored apart: name one of the two")
    return sources


def _expand(path: str) -> list[str]:
    """Give what a glob matches, as a shell would; any other path is itself."""
    return sorted(glob.glob(path)) if glob.has_magic(path) and not os.path.lexists(path) else [path]


def _list_folder(folder: str, packets_first: bool) -> list[str]:
    """List the cutouts in a folder, or the alert packets where there is no cutout; or the other way round."""
    from otrain_infer.packet_sources import list_packet_folder
    from otrain_infer.sources import list_folder

    kinds = {"cutouts": list_folder, "alert packets": list_packet_folder}
    found, whys = {}, []
    for kind, list_them in kinds.items():
        try:
            found[kind] = list_them(folder)
        except SourceError as error:
            whys.append(error)
    if not found:
        raise whys[0] if len(set(map(str, whys))) == 1 else SourceError(f"{whys[0]} (there is no alert packet either)")
    taken = "alert packets" if packets_first and "alert packets" in found else next(iter(found))
    for kind in found.keys() - {taken}:
        # A table of scores may well lie beside the cutouts that it is of.
        others = [path for path in found[kind] if not path.lower().endswith(".parquet")]
        if others:
            log.warning("%d %s in the folder '%s' are passed over: name them to score them", len(others), kind, folder)
    return found[taken]


def _is_cutout(path: str) -> bool:
    from otrain_infer.sources import SUFFIXES

    return path.lower().endswith((*SUFFIXES, ".npz"))


def _is_datacube(path: str) -> bool:
    return path.lower().endswith(".npz")


def _score_alerts(scorer: "Scorer", sources: Sequence[str], arguments: Namespace) -> "Iterator[Part] | None":
    """Score alert packets, if that is what the sources are; `--mapping` and `--schema` are of use for nothing else."""
    from otrain_infer.packet_sources import is_packet_file

    if not (arguments.mapping or arguments.schema or any(map(is_packet_file, sources))):
        return None
    from otrain_infer.alerts import AlertReader
    from otrain_infer.mapping import load_mapping
    from otrain_infer.schemas import open_schemas

    mapping = load_mapping(arguments.mapping) if arguments.mapping else None
    schemas = open_schemas(arguments.schema) if arguments.schema else None
    reader = AlertReader.for_card(scorer.card, mapping, schemas)
    return scorer.score_parts(reader.iter_jobs(sources), reader.read)


def _read_list(path: str) -> list[str]:
    try:
        content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise SourceError(f"the list of cutouts '{path}' cannot be read ({error.strerror})") from None
    paths = [os.fsdecode(line.removesuffix(b"\r")) for line in content.split(b"\n") if line.strip()]
    if not paths:
        raise SourceError(f"the list of cutouts '{path}' is empty")
    return paths


def _default_output(sources: Sequence[str]) -> str:
    from otrain_infer.table import DEFAULT_NAME

    folders = set(map(os.path.dirname, sources))
    return os.path.join(folders.pop() if len(folders) == 1 else "", DEFAULT_NAME)


def _check_output(output: str, sources: Sequence[str]) -> None:
    """Find out before the work is done that its result could not be written, or would replace a cutout."""
    folder = os.path.dirname(Path.cwd() / output)
    try:
        os.lstat(output)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise OutputError(f"'{output}' cannot be written ({error.strerror}): name another with --output") from None
    name = os.path.basename(output)
    if os.path.exists(output) and any(_is_same(output, each) for each in sources if each.endswith(name)):
        raise UsageError(f"the output '{output}' is one of the cutouts: name another")
    while not os.path.exists(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    if os.path.isdir(output):
        raise OutputError(f"nothing can be written as '{output}', which is a folder: name a file with --output")
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK)):
        raise OutputError(f"nothing can be written in '{folder}': name another place with --output")


def _is_same(output: str, source: str) -> bool:
    same_name = os.path.basename(output) == os.path.basename(source)
    return same_name and os.path.exists(source) and Path(output).samefile(source)


def _announce(scorer: "Scorer", arguments: Namespace) -> None:
    if arguments.model is None:
        log.warning(
            "no --model was given: taking the embedded one, a demonstration that learnt from mock cutouts alone"
        )
    if arguments.device == "auto":
        log.warning("device auto: taking %s", scorer.device)
    if scorer.card.cascade and arguments.precision == "auto" and scorer.precision != "int8":
        log.warning("here int8 is no faster than fp32 (that takes a processor with VNNI or DOTPROD): taking fp32")
    own_threshold = arguments.threshold not in (None, scorer.card.threshold) or arguments.prob_ratio != 1
    if scorer.card.cascade and scorer.precision == "int8" and arguments.precision == "auto" and own_threshold:
        log.warning(
            "int8 is guarded at the thresholds of the model alone: with another, or with --prob-ratio, score with "
            "--precision fp32 where each call counts"
        )
    log.info("model %s, planes %s, size %dx%d", scorer.identity, ",".join(scorer.card.planes), *scorer.card.size)


def _score(scorer: "Scorer", sources: Sequence[str], arguments: Namespace) -> "Iterator[Part]":
    from otrain_infer.datacube import count_rows, iter_datacube

    parts: Iterator[Part]
    total: int | None
    if alerts := _score_alerts(scorer, sources, arguments):
        total, parts = None, alerts
    elif _is_datacube(sources[0]):
        total = count_rows(sources[0])
        rows = iter_datacube(sources[0], scorer.card)
        parts = ((part.without_pixels(), *scorer.score_with_spread(part)) for part in rows)
    else:
        total = len(sources)
        parts = scorer.score_each_with_spread(sources)
    with progress(total, "cutouts") as bar:
        for part in parts:
            yield part
            bar.update(len(part[0]))


@dataclass
class _Tally:
    """What became of the cutouts."""

    threshold: float
    rows: int = 0
    scored: int = 0
    real: int = 0
    unusable: int = 0
    flags: "Counter[CutoutFlag]" = field(default_factory=Counter)
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def add(self, cutouts: "Cutouts", scores: "npt.NDArray[np.float32]") -> None:
        import numpy as np

        from otrain_infer.flags import CutoutFlag

        self.rows += len(cutouts)
        self.scored += int(np.isfinite(scores).sum())
        self.real += int((scores >= self.threshold).sum())
        self.flags.update({flag: int((cutouts.flags & flag != 0).sum()) for flag in CutoutFlag})
        for row, why in cutouts.reasons.items():
            log.debug("%s: %s", cutouts.names[row], why)
        told = [(str(cutouts.names[row]), why) for row, why in cutouts.reasons.items()]
        self.reasons += told[: REASONS_TOLD - len(self.reasons)]
        self.unusable += len(told)

    def tell(self) -> int:
        """Report on stderr and give the exit status."""
        log.info("%d of %d cutouts scored, %d of them %g or more", self.scored, self.rows, self.real, self.threshold)
        for flag, count in self.flags.items():
            if count:
                log.info("%s: %d", flag.name, count)
        for name, reason in self.reasons:
            log.info("%s: %s", name, reason)
        if self.unusable > len(self.reasons):
            log.info("and %d more without a score, which -v tells of one by one", self.unusable - len(self.reasons))
        if not self.scored:
            log.error("not one cutout could be scored")
            return NOTHING_SCORED
        return DONE


def _model_parser() -> Parser:
    parser = Parser(prog="otrain-model", description="Show and check models, and this machine's means to run them.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="show | verify | drift | doctor")
    for name, text in (
        ("show", "the card of a model, in words"),
        ("verify", "score the golden cutouts of a model here and compare with what it promises"),
        ("doctor", "versions, devices, threads, cache folders and start-up times of this machine"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        if name != "doctor":
            command.add_argument("model", nargs="?", help="ONNX file; if not given, the embedded demonstration model")
    text = "compare the scores of tables with those of the rows that their model was checked on; 1 where they drifted"
    drift = commands.add_parser("drift", help=text, description=text)
    drift.add_argument("tables", nargs="+", metavar="TABLE", help="that otrain-infer wrote, without --prob-ratio")
    drift.add_argument("--model", help="ONNX file that gave the scores; if not given, the embedded demonstration model")
    drift.add_argument("--window", type=int, help="rows compared at a time; if not given, each table as a whole")
    return parser


def model(argv: Sequence[str] | None = None) -> int:
    """Run otrain-model."""
    return run(_model_parser(), _model, argv)


def _model(arguments: Namespace) -> int:
    from otrain_infer import inspection

    if arguments.command == "doctor":
        print(inspection.examine_machine())
        return DONE
    if arguments.command == "show":
        print(inspection.describe(arguments.model))
        return DONE
    if arguments.command == "drift":
        report, passed = inspection.find_drift(arguments.tables, arguments.model, arguments.window)
    else:
        report, passed = inspection.verify(arguments.model)
    print(report)
    return DONE if passed else 1


if __name__ == "__main__":
    sys.exit(infer())
