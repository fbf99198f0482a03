"""The commands that build datacubes and train models: one parser and one short function each; imports are inside."""

import math
from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path

from otrain_infer.command import DONE, available_processors, progress, run
from otrain_infer.errors import UsageError
from otrain_train.config import ConfigParser, add_rule, plane_names, reporting
from otrain_train.quiet import start_tensorflow
from otrain_train.settings import GATES, TRACKERS, RunSettings, TrainSettings, option_name, options


def _fraction_or_all(text: str) -> float | str:
    if text == "all":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ArgumentTypeError(f"'{text}' is neither a fraction between 0 and 1, both excluded, nor 'all'")
    return value


def _convert_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-convert", description="Put cutouts sorted into true/ and false/, or by votes, into one datacube."
    )
    option = parser.add_argument
    option("--cutouts", required=True, help="folder that holds the folders true and false, or what was voted on")
    option("--path", "--path-datacube", type=Path, default=Path(), help="folder to write the datacube to")
    option("--cube", required=True, help="name of the datacube")
    option("--frac-true", type=_fraction_or_all, default=0.5, help="fraction of real ones; 'all' takes every cutout")
    option("--cutout-size", type=int, default=-1, help="width and height (pixels); -1 takes the commonest")
    option("--planes", type=plane_names, default="DIFF", help="planes to take, such as SCI,REF,DIFF")
    option("--seed", type=int, default=0, help="decides which cutouts are taken where there are too many")
    option("--threads", type=int, help="threads that read; if not given, one a processor")
    option("--labels", type=Path, help="votes of otrain-label that say which are real, instead of the folders")
    add_rule(parser)
    return parser


def convert(argv: Sequence[str] | None = None) -> int:
    """Run otrain-convert."""
    return run(_convert_parser(), _convert, argv)


def _convert(arguments: Namespace) -> int:
    from otrain_train.convert import ConvertSettings
    from otrain_train.convert import convert as convert_folder
    from otrain_train.verdicts import Rule

    settings = ConvertSettings(
        frac_true=None if arguments.frac_true == "all" else arguments.frac_true,
        cutout_size=arguments.cutout_size,
        planes=arguments.planes,
        seed=arguments.seed,
        threads=available_processors() if arguments.threads is None else arguments.threads,
        labels=arguments.labels,
        rule=Rule(arguments.min_votes, arguments.min_agreement, arguments.weights),
    )
    name = arguments.cube.removesuffix(".npz")
    if not name:
        raise UsageError("--cube is the name of the datacube, and it is empty")
    with reporting("cutouts") as report:
        path = arguments.path / f"{name}.npz"
        print(convert_folder(arguments.cutouts, path, settings, lambda done, total: report(done, total, "")))
    return DONE


def add_settings(parser: ConfigParser, without: Collection[str] = ()) -> None:
    """Add an option for each setting of a training, except those named."""
    for name, option in options().items():
        if name not in without:
            parser.add_argument(f"--{option_name(name)}", **option)


def settings_of(arguments: Namespace) -> TrainSettings:
    """Take the settings of a training from parsed arguments; those that are no option keep their default."""
    return TrainSettings(**{name: getattr(arguments, name) for name in options() if hasattr(arguments, name)})


def _train_parser() -> ConfigParser:
    parser = ConfigParser(prog="otrain-train", description="Train a network on a datacube and export it to ONNX.")
    option = parser.add_argument
    option("--cube", required=True, type=Path, help="the datacube, an .npz file")
    option("--model-path", required=True, type=Path, help="folder in which CNN_training receives the results")
    option("--model-name", required=True, help="name of the model")
    option(
        "--planes",
        type=plane_names,
        help="planes of the datacube to learn from, such as SCI,REF,DIFF; their names where it does not say them",
    )
    option("--note", default="", help="what the card is to say of the model, such as what it is good for")
    option("--pretrained", type=Path, metavar="MODEL", help="model to begin from, its .keras or its .onnx file")
    option(
        "--teacher",
        type=Path,
        metavar="MODEL",
        help="larger model, or ensemble, from whose scores to learn besides the labels, its .keras or its .onnx file",
    )
    option(
        "--gate",
        choices=GATES,
        default="mcnemar",
        help="with --pretrained: refuse a model that does not beat that one on the validation rows, or none",
    )
    option("--tracker", choices=TRACKERS, default="none", help="where settings and figures are sent besides")
    option("--tune", type=int, metavar="N", default=0, help="trials of a search for better settings beforehand")
    option(
        "--label-folds",
        type=int,
        metavar="N",
        default=0,
        help="networks trained besides, so that suspicious labels are sought among all rows; 0 seeks them among those "
        "that are not learnt from",
    )
    option("--report", action=BooleanOptionalAction, default=True, help="write report.html")
    add_settings(parser)
    return parser


def train(argv: Sequence[str] | None = None) -> int:
    """Run otrain-train."""
    return run(_train_parser(), _train, argv)


def _train(arguments: Namespace) -> int:
    from otrain_infer.normalise import Normalisation
    from otrain_infer.npz import open_npz
    from otrain_train.results import ModelFiles

    settings = settings_of(arguments)
    around = RunSettings(**{each.name: getattr(arguments, each.name) for each in fields(RunSettings)})
    # TensorFlow takes seconds to start: complain before.
    Normalisation(settings.normalisation)
    ModelFiles.named(arguments.model_path, arguments.model_name)
    open_npz(arguments.cube, ["cube", "labels"])
    start_tensorflow(look_for_devices=settings.devices != "hosts")
    from otrain_train.train import train as train_network

    with reporting("steps") as report:
        cube, path, name = arguments.cube, arguments.model_path, arguments.model_name
        print(train_network(cube, path, name, settings, around, report))
    return DONE


def _optimise_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-optimise-dataset-size",
        description="Train on less and less of a datacube, always tested on the same rows: how many labels are enough, "
        "and what would twice as many bring?",
    )
    option = parser.add_argument
    option("--cube", required=True, type=Path, help="the datacube, an .npz file")
    option("--model-path", required=True, type=Path, help="folder in which CNN_training receives the trainings")
    option("--model-name", required=True, help="name of the models")
    option("--n-sections", type=int, default=20, help="sizes to train on; a curve is fitted to 5 or more")
    option("--outdir", type=Path, default=Path(), help="folder for the plots and the table")
    option(
        "--planes", type=plane_names, help="planes to learn from, such as DIFF; their names where it does not say them"
    )
    option("--repeats", type=int, default=3, help="trainings of each size, each with a seed of its own")
    option("--tolerance", type=float, default=0.01, help="loss of MCC at which a size is still acceptable")
    option("--processes", type=int, help="trainings at a time; if not given, as many as processors and memory allow")
    add_settings(parser, without=("devices", "frozen_epochs", "teacher_weight"))
    return parser


def optimise_dataset_size(argv: Sequence[str] | None = None) -> int:
    """Run otrain-optimise-dataset-size."""
    return run(_optimise_parser(), _optimise_dataset_size, argv)


def _optimise_dataset_size(arguments: Namespace) -> int:
    from otrain_train.optimise_dataset_size import SizeSettings
    from otrain_train.optimise_dataset_size import optimise_dataset_size as optimise

    given = arguments.n_sections, arguments.repeats, arguments.tolerance, arguments.processes, arguments.planes
    study = SizeSettings(*given)
    folder = arguments.model_path / "CNN_training"
    with reporting("trainings") as report:
        cube, name, outdir = arguments.cube, arguments.model_name, arguments.outdir
        print(optimise(cube, folder, name, outdir, settings_of(arguments), study, report))
    return DONE


def _mock_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-mock",
        description="Write mock cutouts, sorted into true/ and false/; or mock images, into science/ and reference/.",
    )
    option = parser.add_argument
    option("--output", required=True, type=Path, help="folder to write to")
    option("--n-true", type=int, default=1000, help="real ones")
    option("--n-false", type=int, default=1000, help="bogus ones")
    option("--size", type=int, default=64, help="width and height (pixels)")
    option("--planes", type=plane_names, default="SCI,REF,DIFF", help="planes of each")
    option("--seed", type=int, default=0, help="decides what they look like")
    option("--n-pairs", type=int, default=0, help="pairs of images to write instead of cutouts")
    option("--image-size", type=int, default=1024, help="width and height of these images (pixels)")
    return parser


def mock(argv: Sequence[str] | None = None) -> int:
    """Run otrain-mock."""
    return run(_mock_parser(), _mock, argv)


def _mock(arguments: Namespace) -> int:
    if arguments.n_pairs:
        return _mock_images(arguments)
    from otrain_train.mock import MockSettings, write_mock

    settings = MockSettings(
        n_true=arguments.n_true,
        n_false=arguments.n_false,
        size=arguments.size,
        planes=arguments.planes,
        seed=arguments.seed,
    )
    with progress(settings.n_true + settings.n_false, "cutouts") as bar:
        write_mock(arguments.output, settings, bar.update)
    print(arguments.output)
    return DONE


def _mock_images(arguments: Namespace) -> int:
    from otrain_train.mock_images import MockImageSettings, write_mock_images

    settings = MockImageSettings(arguments.n_pairs, arguments.image_size, arguments.seed)
    with progress(settings.n_pairs, "pairs") as bar:
        write_mock_images(arguments.output, settings, bar.update)
    print(arguments.output)
    return DONE
