"""The commands that judge models and their scores: one parser and one short function each; heavy imports are inside."""

from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path

from otrain_infer.command import DONE, NOTHING_SCORED, number, run, score
from otrain_train.config import ConfigParser, reporting
from otrain_train.quiet import start_tensorflow


def _diagnostics_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-diagnostics", description="Say how good a model is on labelled cutouts, and show where it errs."
    )
    option = parser.add_argument
    _add_model(parser)
    option("--path-diagnostics", type=Path, default=Path("diagnostics"), help="folder for the results")
    option("--report", action=BooleanOptionalAction, default=False, help="write report.html as well")
    option("--seed", type=_seed, default=0, help="decides which of the well classified are shown")
    return parser


def _add_model(parser: ConfigParser) -> None:
    option = parser.add_argument
    option("--path-cube-validation", required=True, type=Path, help="datacube of labelled cutouts, an .npz file")
    option("--model-path", required=True, type=Path, help="the model, an .onnx file")
    option("--threshold", type=score, help="score from which a candidate is called real; if not given, the model's")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"'{text}' is not a whole number from 0 on")
    return int(text)


def diagnostics(argv: Sequence[str] | None = None) -> int:
    """Run otrain-diagnostics."""
    return run(_diagnostics_parser(), _diagnostics, argv)


def _diagnostics(arguments: Namespace) -> int:
    if arguments.report:
        start_tensorflow()
    from otrain_train.diagnostics import diagnose

    cube, model, folder = arguments.path_cube_validation, arguments.model_path, arguments.path_diagnostics
    with reporting("cutouts") as report:
        found = diagnose(cube, model, folder, arguments.threshold, arguments.seed, arguments.report, report)
    print(found)
    return DONE if found.assessment.figures.n else NOTHING_SCORED


def _plot_results_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-plot-results",
        description="Plot how good a model is: by magnitude, by threshold, by score. Also called otrain-plots-results.",
    )
    _add_model(parser)
    parser.add_argument("--path-plots", type=Path, default=Path("plots"), help="folder for the plots")
    parser.add_argument("--seed", type=_seed, default=0, help="decides the resampling that gives the confidence bands")
    return parser


def plot_results(argv: Sequence[str] | None = None) -> int:
    """Run otrain-plot-results."""
    return run(_plot_results_parser(), _plot_results, argv)


def _plot_results(arguments: Namespace) -> int:
    from otrain_train.plot_results import plot_results as plot

    cube, model, folder = arguments.path_cube_validation, arguments.model_path, arguments.path_plots
    with reporting("cutouts") as report:
        summary = plot(cube, model, folder, arguments.threshold, arguments.seed, report)
    print(summary)
    return DONE if summary.real + summary.bogus else NOTHING_SCORED


def _checkinfer_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-checkinfer",
        description="Compare the scores of simulated sources with those of all other candidates of the same images.",
    )
    option = parser.add_argument
    option("--plots", type=Path, default=Path(), help="folder in which CheckInfer receives the plots")
    option("--crossmatch", required=True, type=Path, help="crossmatch.dat: simulated sources and their candidates")
    option("--infer", required=True, type=Path, help="table of scores, such as infer_results.dat")
    option("--maglim", type=number, nargs="+", default=[12.0, 18.0, 21.0], help="bounds of the ranges of magnitude")
    option("--cnn-problim", type=score, nargs="+", default=[0.1, 0.5, 0.7], help="bounds of the ranges of score")
    option("--fwhm-ratio-lower", type=number, default=0.5, help="lowest FWHM/FWHMPSF of a point source")
    option("--fwhm-ratio-upper", type=number, default=4.2, help="highest FWHM/FWHMPSF of a point source")
    return parser


def checkinfer(argv: Sequence[str] | None = None) -> int:
    """Run otrain-checkinfer."""
    return run(_checkinfer_parser(), _checkinfer, argv)


def _checkinfer(arguments: Namespace) -> int:
    from otrain_train.checkinfer import CheckSettings, check_inference

    bounds = (arguments.fwhm_ratio_lower, arguments.fwhm_ratio_upper)
    settings = CheckSettings(tuple(arguments.maglim), tuple(arguments.cnn_problim), bounds)
    print(check_inference(arguments.crossmatch, arguments.infer, arguments.plots, settings))
    return DONE


def _grad_cam_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-grad-cam",
        description="Show which pixels of a cutout decided, where a network erred and where not.",
    )
    option = parser.add_argument
    option("--cube", required=True, type=Path, help="datacube of labelled cutouts, an .npz file")
    option("--model-path", required=True, type=Path, help="the model, its .onnx file with the .keras file beside it")
    option("--cam-path", type=Path, default=Path(), help="folder in which grad_cam receives the pictures")
    option("--n-random", type=int, default=30, help="well classified cutouts of each class to show, drawn at random")
    option("--threshold", type=score, help="score from which a candidate is called real; if not given, the model's")
    option("--seed", type=_seed, default=0, help="decides which of the well classified are shown")
    return parser


def grad_cam(argv: Sequence[str] | None = None) -> int:
    """Run otrain-grad-cam."""
    return run(_grad_cam_parser(), _grad_cam, argv)


def _grad_cam(arguments: Namespace) -> int:
    start_tensorflow()
    from otrain_train.grad_cam import grad_cam as draw_maps

    cube, model, folder = arguments.cube, arguments.model_path, arguments.cam_path
    with reporting("cutouts") as report:
        summary = draw_maps(cube, model, folder, arguments.n_random, arguments.threshold, arguments.seed, report)
    print(summary)
    return DONE if summary.scored else NOTHING_SCORED
