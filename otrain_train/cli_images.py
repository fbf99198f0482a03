"""The commands from images to cutouts: one parser and one short function each; heavy imports are inside."""

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otrain_infer.command import DONE, number, run
from otrain_infer.errors import UsageError
from otrain_train.config import ConfigParser, reporting


def _zero_point(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text.upper()
    if not math.isfinite(value):
        raise ArgumentTypeError(f"'{text}' is no magnitude")
    return value


def _column(text: str) -> tuple[str, str]:
    name, equals, column = text.partition("=")
    if not (name and equals and column):
        raise ArgumentTypeError(f"'{text}' is not of the form COLUMN=ITS_NAME, such as mag=MAG_AUTO")
    return name, column


def _add_data(parser: ArgumentParser, what: str) -> None:
    parser.add_argument("--path-data", "--data", required=True, type=Path, metavar="DIR", help=what)


def _add_image_options(parser: ArgumentParser) -> None:
    option = parser.add_argument
    option("--ZP", "--zp", type=_zero_point, default=30.0, help="magnitude of 1 ADU, or the keyword that says it")
    option("--gain", type=number, help="e-/ADU; if not given, what each header says; inf for no Poisson noise")
    option("--saturation", type=number, help="ADU from which a pixel is not used; if not given, what each header says")
    option("--extension", help="name or number of the extension with the image, where there are several")


def _image_settings(arguments: Namespace, **changed: Any) -> Any:
    from otrain_train.images import ImageSettings

    given = {"extension": arguments.extension, "gain": arguments.gain, "saturation": arguments.saturation}
    return ImageSettings(**(given | changed))


def _sim_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-sim", description="Insert point sources that look like stars into copies of images."
    )
    option = parser.add_argument
    _add_data(parser, "folder of the images, which are not touched")
    option("--results", type=Path, help="folder for the copies; if not given, DIR/simulation")
    option("--Ntrans", "--ntrans", type=int, default=100, help="sources for each image")
    option(
        "--magrange", type=number, nargs=2, default=[14.0, 23.0], metavar=("BRIGHT", "FAINT"), help="their magnitudes"
    )
    _add_image_options(parser)
    option(
        "--psf",
        type=Path,
        help="what a point source looks like, a .psf file of PSFEx or a FITS image; if not given, NAME.psf beside an "
        "image, or else its stars",
    )
    option("--near-galaxies", action="store_true", help="insert them where galaxies are")
    option(
        "--negative",
        type=number,
        nargs="?",
        const=0.5,
        default=0.0,
        metavar="FRACTION",
        help="part of them that is taken away instead of added; without a number, half",
    )
    option("--seed", type=int, default=0, help="decides where they are and how bright")
    return parser


def sim(argv: Sequence[str] | None = None) -> int:
    """Run otrain-sim."""
    return run(_sim_parser(), _sim, argv)


def _sim(arguments: Namespace) -> int:
    from otrain_train.sim import SimSettings, simulate

    bright, faint = arguments.magrange
    settings = SimSettings(
        n_sources=arguments.Ntrans,
        mag_range=(bright, faint),
        zero_point=arguments.ZP,
        psf=arguments.psf,
        near_galaxies=arguments.near_galaxies,
        negative=arguments.negative,
        seed=arguments.seed,
        images=_image_settings(arguments),
    )
    with reporting("images") as report:
        print(simulate(arguments.path_data, arguments.results, settings, lambda done, total: report(done, total, "")))
    return DONE


def _detect_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-detect",
        description="Subtract a reference from each image and list what stands out; or take the catalogue of another "
        "pipeline.",
    )
    option = parser.add_argument
    _add_data(parser, "folder of the science images; receives candidates_list.dat")
    option(
        "--reference",
        type=Path,
        help="the reference, or a folder of references: that of the same name, or that which covers an image in its "
        "filter",
    )
    option("--threshold", type=number, default=4.0, help="lowest significance of a candidate")
    _add_image_options(parser)
    option("--reference-gain", type=number, help="e-/ADU of the references; if not given, what each header says")
    option("--reference-extension", help="name or number of the extension of the references, where there are several")
    option("--negative", action="store_true", help="list what is brighter in the reference too")
    option("--align", choices=("auto", "wcs", "stars", "none"), default="auto", help="how the reference is aligned")
    option("--kernel-order", type=int, default=2, help="degree with which the kernel varies over the field")
    option("--kernel-size", type=int, help="half width of the kernel (pixels); if not given, what the seeing asks for")
    option("--catalogue", type=Path, help="candidates of another pipeline, on images that it has subtracted")
    option(
        "--columns",
        type=_column,
        nargs="+",
        default=[],
        metavar="COLUMN=ITS_NAME",
        help="with --catalogue: what its columns are called, such as RA=ra_deg Dec=dec_deg mag=MAG_AUTO",
    )
    option("--difference", type=Path, help="with --catalogue: the difference image")
    option("--image", type=Path, help="with --catalogue: the science image, of the same pixels")
    option("--first-pixel", type=int, choices=(0, 1), default=1, help="with --catalogue: what it calls the first pixel")
    return parser


def detect(argv: Sequence[str] | None = None) -> int:
    """Run otrain-detect."""
    return run(_detect_parser(), _detect, argv)


def _detect(arguments: Namespace) -> int:
    if arguments.catalogue is not None:
        return _import_catalogue(arguments)
    from otrain_train.detect import DetectSettings
    from otrain_train.detect import detect as detect_on
    from otrain_train.subtract import KernelSettings

    if arguments.reference is None:
        raise UsageError("--reference is the image to subtract, or a folder of them; or give a --catalogue")
    for name in ("columns", "difference", "image"):
        if getattr(arguments, name):
            raise UsageError(f"--{name} is about a --catalogue, and there is none")
    settings = DetectSettings(
        threshold=arguments.threshold,
        zero_point=arguments.ZP,
        negative=arguments.negative,
        alignment=arguments.align,
        kernel=KernelSettings(arguments.kernel_order, arguments.kernel_size),
        images=_image_settings(arguments),
        references=_image_settings(
            arguments, gain=arguments.reference_gain, saturation=None, extension=arguments.reference_extension
        ),
    )
    with reporting("images") as report:
        print(
            detect_on(arguments.path_data, arguments.reference, settings, lambda done, total: report(done, total, ""))
        )
    return DONE


def _import_catalogue(arguments: Namespace) -> int:
    from otrain_train.candidates_list import LIST_NAME
    from otrain_train.catalogue import CatalogueSettings, import_catalogue

    settings = CatalogueSettings(
        columns=dict(arguments.columns),
        difference=arguments.difference,
        image=arguments.image,
        reference=arguments.reference,
        first_pixel=arguments.first_pixel,
    )
    found = import_catalogue(arguments.catalogue, arguments.path_data, settings)
    print(f"{arguments.path_data / LIST_NAME}: {len(found)} candidates")
    return DONE


def _cutouts_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-cutouts", description="Cut candidates out of the image, the reference and the difference."
    )
    option = parser.add_argument
    _add_data(parser, "folder with candidates_list.dat")
    option("--training", action="store_true", help="put candidates at inserted sources into true")
    option("--false", action="store_true", help="with --training: put the others into false, not looked at")
    option("--size", type=int, default=32, help="width and height (pixels)")
    option(
        "--radius", type=number, default=1.0, help="distance to an inserted source (arcseconds, or pixels without WCS)"
    )
    option("--extension", help="name or number of the extension with the image, as it was for otrain-detect")
    option("--replace", action="store_true", help="remove the cutouts of an earlier run, those sorted by hand too")
    return parser


def cutouts(argv: Sequence[str] | None = None) -> int:
    """Run otrain-cutouts."""
    return run(_cutouts_parser(), _cutouts, argv)


def _cutouts(arguments: Namespace) -> int:
    from otrain_train.extract import ExtractSettings, extract

    settings = ExtractSettings(
        size=arguments.size,
        training=arguments.training,
        false=arguments.false,
        radius=arguments.radius,
        replace=arguments.replace,
        extension=arguments.extension,
    )
    with reporting("cutouts") as report:
        print(extract(arguments.path_data, settings, lambda done, total: report(done, total, "")))
    return DONE


def _checksim_parser() -> ConfigParser:
    parser = ConfigParser(
        prog="otrain-checksim", description="Say which of the inserted sources were detected, by magnitude and filter."
    )
    _add_data(parser, "folder with candidates_list.dat and simulated_objects.list")
    parser.add_argument(
        "--radius", type=number, default=2.0, help="distance to an inserted source (arcseconds, or pixels without WCS)"
    )
    return parser


def checksim(argv: Sequence[str] | None = None) -> int:
    """Run otrain-checksim."""
    return run(_checksim_parser(), _checksim, argv)


def _checksim(arguments: Namespace) -> int:
    from otrain_train.checksim import check_simulation

    print(check_simulation(arguments.path_data, arguments.radius))
    return DONE
