"""The command otrain-export: networks of this program and of others become ONNX files."""

import logging
from argparse import HelpFormatter, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otrain_infer.command import DONE, run, score
from otrain_infer.errors import ModelError, UsageError
from otrain_train.config import ConfigParser, plane_names
from otrain_train.quiet import start_tensorflow
from otrain_train.settings import MAX_FLIPS

if TYPE_CHECKING:
    from otrain_infer.card import ModelCard
    from otrain_infer.normalise import Pixels
    from otrain_train.datacube import Datacube

log = logging.getLogger("otrain.train")

FOREIGN = {
    "planes": ("DIFF",),
    "normalisation": "robust",
    "padding": "object,0,after",
    "size": None,
    "threshold": 0.5,
    "name": None,
}
"""What otrain-export takes for a network without a card where it is not told otherwise."""


def _export_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-export",
        description="Export a Keras network (.keras, .h5 of Keras 2 or 3) to ONNX. What it was trained with is told by "
        "--card for networks of otrain-train, and by the other options for those of other projects.",
        formatter_class=HelpFormatter,
    )
    option = parser.add_argument
    option("model", type=Path, help="the .keras or .h5 file")
    option("--output", type=Path, required=True, help="the ONNX file to write")
    option("--card", type=Path, help="ONNX file that otrain-train wrote for this network: its card says all the rest")
    option("--name", help="name of the model; if not given, that of the file")
    option("--planes", type=plane_names, help="planes that it was trained on, in order; if not given, DIFF")
    option(
        "--size", type=int, nargs=2, metavar=("NY", "NX"), help="size of its cutouts, where its input leaves it free"
    )
    option("--normalisation", help="none, l2, l2-rows or robust; if not given, robust")
    option("--padding", help="side (object or corner), value, before or after scaling; if not given, object,0,after")
    option(
        "--threshold", type=score, help="score from which a candidate is called real; if not given, the card's, or 0.5"
    )
    option(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="fp32; fp16 for GPUs; int8 for processors, which needs --calibration-cube; if not given, fp32",
    )
    option(
        "--calibration-cube",
        type=Path,
        help="datacube of real cutouts on which the export is checked, and from which int8 takes its ranges",
    )
    option(
        "--max-flips",
        type=score,
        default=MAX_FLIPS,
        help=f"fraction of calls that int8 may make otherwise than fp32 at a threshold; if not given, {MAX_FLIPS:g}",
    )
    option(
        "--target",
        choices=("boom", "boom-nchw"),
        help="write besides, beside --output, the same model as the broker BOOM feeds it (n, 63, 63, 3), or with the "
        "planes first, and a file of triplets with their scores for its tests",
    )
    return parser


def export(argv: Sequence[str] | None = None) -> int:
    """Run otrain-export."""
    return run(_export_parser(), _export, argv)


def _export(arguments: Namespace) -> int:
    _check_output(arguments)
    if arguments.target:
        _check_target(arguments)
    cube = _read_cube(arguments.calibration_cube)
    start_tensorflow()
    card = _export_with_card(arguments, cube) if arguments.card else _export_foreign(arguments, cube)
    parity: dict[str, Any] = card.metrics["parity"]
    made_up = "made-up " if parity["rows_from"] == "synthetic" else ""
    print(
        f"{arguments.output}: differs from the network by at most {parity['max_difference']:.2g} "
        f"(allowed {parity['tolerance']:g}) on {parity['rows']} {made_up}cutouts"
    )
    if card.cascade:
        from otrain_train.rescoring import in_words

        print(in_words(card.cascade))
    if arguments.target:
        from otrain_train.targets import write_target

        print(*write_target(arguments.output, arguments.target), sep="\n")
    return DONE


def _check_output(arguments: Namespace) -> None:
    output = arguments.output
    if not output.name or output.is_dir():
        raise UsageError(f"'{output}' is not the name of a file: say which ONNX file --output is to be")
    inputs = [each for each in (arguments.model, arguments.card, arguments.calibration_cube) if each and each.exists()]
    if output.exists() and any(output.samefile(each) for each in inputs):
        raise UsageError(f"the output '{output}' is one of the inputs: name another")


def _check_target(arguments: Namespace) -> None:
    from otrain_infer.scorer import Scorer
    from otrain_train.targets import check_fits

    if arguments.precision == "int8":
        raise UsageError("--target needs a model of one precision, fp32 or fp16, for BOOM would use int8 alone")
    if arguments.card:
        card = Scorer(arguments.card).card
        check_fits(card.planes, card.size, card.normalisation.method)
    else:
        told = {name: getattr(arguments, name) for name in FOREIGN if getattr(arguments, name) is not None}
        chosen: dict[str, Any] = FOREIGN | told
        size = tuple(chosen["size"]) if chosen["size"] else None
        check_fits(tuple(chosen["planes"]), size, chosen["normalisation"])


def _export_with_card(arguments: Namespace, cube: "Datacube | None") -> "ModelCard":
    from otrain_infer.scorer import Scorer

    told = [f"--{name}" for name in FOREIGN if name != "threshold" and getattr(arguments, name) is not None]
    if told:
        raise UsageError(f"--card says all that {', '.join(told)} would: give one or the other")
    card = replace(Scorer(arguments.card).card, cascade=None)
    from otrain_train.export import export as export_network
    from otrain_train.export import load_network, rescores

    network = load_network(arguments.model)
    if not rescores(network, card):
        raise ModelError(
            f"'{arguments.model}' is not the network that '{arguments.card}' was exported from, for it gives other "
            "scores: name the Keras file beside that one"
        )
    rows = _rows_of(cube, card.planes)
    if rows is None and card.golden:
        rows = card.golden.pixels
    if arguments.threshold is not None:
        card = replace(card, threshold=arguments.threshold)
    return export_network(network, card, arguments.output, rows, arguments.precision, arguments.max_flips)


def _export_foreign(arguments: Namespace, cube: "Datacube | None") -> "ModelCard":
    from otrain_infer.normalise import Normalisation, Padding

    told = {name: getattr(arguments, name) for name in FOREIGN if getattr(arguments, name) is not None}
    chosen: dict[str, Any] = FOREIGN | told
    for name in ("planes", "normalisation"):
        if name not in told:
            taken = chosen[name] if isinstance(chosen[name], str) else ",".join(chosen[name])
            log.warning(
                "no --%s was given, taking %s: if the network was trained with another, its scores will be wrong and "
                "nothing can tell",
                name,
                taken,
            )
    chosen["normalisation"] = Normalisation(chosen["normalisation"], Padding.parse(chosen.pop("padding")))
    from otrain_train.export import export_file

    return export_file(
        arguments.model,
        arguments.output,
        precision=arguments.precision,
        rows=_rows_of(cube, chosen["planes"]),
        max_flips=arguments.max_flips,
        **chosen,
    )


def _read_cube(path: Path | None) -> "Datacube | None":
    if path is None:
        return None
    from otrain_infer.npz import check_members
    from otrain_train.datacube import Datacube

    cube = Datacube.load(path)
    check_members(path)
    return cube


def _rows_of(cube: "Datacube | None", planes: Sequence[str]) -> "Pixels | None":
    """Give the planes of a datacube that a network takes, by their names where it says them."""
    if cube is None:
        return None
    unnamed = len(cube.planes) == 1 or cube.planes[0].startswith("PLANE")
    if unnamed or tuple(cube.planes) == tuple(planes):
        return cube.cube
    if not set(planes) <= set(cube.planes):
        raise UsageError(
            f"the datacube holds the planes {','.join(cube.planes)}, and the network takes {','.join(planes)}: name "
            "one that has them"
        )
    chosen: Pixels = cube.cube[..., [cube.planes.index(plane) for plane in planes]]
    return chosen
