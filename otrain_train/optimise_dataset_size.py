"""What ``otrain-optimise-dataset-size`` does: find how many labels are enough, and what twice as many would bring."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from otrain_infer.errors import UsageError
from otrain_infer.normalise import Normalisation
from otrain_infer.npz import check_members
from otrain_train.datacube import sha256
from otrain_train.learning_curve import fit_curve
from otrain_train.outputs import prepare_folder, sole_user
from otrain_train.planes import open_in_planes
from otrain_train.pool import Outcome, run_in_processes, suitable_processes
from otrain_train.results import ModelFiles
from otrain_train.rows import usable_rows
from otrain_train.settings import SEEDS, TrainSettings
from otrain_train.size_plots import SizeResults
from otrain_train.size_summary import SizeSummary, file_names, write_summary
from otrain_train.size_trainings import Record, Study, Training, memory_of, read_record, train_one
from otrain_train.splits import group_by, split_rows
from otrain_train.subsets import choose_sizes, rank_rows

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class SizeSettings:
    """What a study of sizes is made of. Impossible values raise UsageError.

    Attributes
    ----------
    n_sections
        Sizes to train on.
    repeats
        Trainings of each size: the first with the seed of the settings, the others with the numbers after it.
    tolerance
        By how much the MCC of an acceptable size may be below that of all rows.
    processes
        Trainings at a time; None for as many as processors and memory are enough for.
    planes
        The planes of the datacube to learn from; None for all.
    """

    n_sections: int = 20
    repeats: int = 3
    tolerance: float = 0.01
    processes: int | None = None
    planes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("n_sections", "repeats"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} is 1 or more, not {getattr(self, name)}")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance is a loss of MCC between 0 and 1, both excluded, not {self.tolerance:g}")
        if self.processes is not None and self.processes < 1:
            raise UsageError(f"processes is 1 or more, not {self.processes}")


def optimise_dataset_size(
    cube: Path,
    folder: Path,
    name: str,
    outdir: Path,
    settings: TrainSettings | None = None,
    sizes: SizeSettings | None = None,
    progress: Progress | None = None,
) -> SizeSummary:
    """Train on less and less of a datacube, and test each network on the same rows.

    The test rows are those that ``otrain-train`` with the same settings measures its figures on. The others are trained
    on, all of them and less and less, each smaller set a part of the larger of the same repeat. Every finished training
    is kept in ``NAME_dataset_size`` in `folder`, and a study that was killed or interrupted goes on from there when
    called again.

    Writes into `outdir` ``NAME_scores_dataset_size.png``, ``NAME_ecart_accuracy_size.png``,
    ``NAME_loss_dataset_size.png``, ``NAME_dataset_size.csv`` (one row for each training), and all of it in
    ``NAME_dataset_size.json``.

    Parameters
    ----------
    cube
        The datacube, an .npz file.
    folder, name
        Where trainings are kept, and what the files are called.
    outdir
        Where the plots and tables go.
    settings
        How to train; the defaults if not given.
    sizes
        On what; the defaults if not given.
    progress
        Called with the trainings done, all trainings, and a few words, after each.

    Returns
    -------
    SizeSummary
        As text, what a person wants to know.

    Raises
    ------
    DatacubeError
        When the file is not a usable datacube, or a class has too few cutouts.
    UsageError
        When a setting makes no sense, or no training came to its end.
    OutputError
        When something cannot be written, or another process is at the same study.
    """
    settings, sizes = settings or TrainSettings(), sizes or SizeSettings()
    cube, folder, outdir = Path(cube), Path(folder) / f"{name}_dataset_size", Path(outdir)
    _check(name, settings)
    study, trainings = _plan(cube, folder, settings, sizes)
    prepare_folder(folder, (), ())
    prepare_folder(outdir, file_names(name), (cube,))
    with sole_user(folder):
        outcome = _train(study, trainings, sizes, progress)
    records = [record for each in trainings if (record := read_record(study, each))]
    if not records:
        if outcome.interrupted:
            raise KeyboardInterrupt
        raise UsageError(f"no training came to its end; the first said: {next(iter(outcome.failures.values()))}")
    results = SizeResults.of(records)
    errors = 1 - results.test["mcc"]
    rng = np.random.default_rng(settings.seed)
    curve = fit_curve(results.sizes, errors, results.repeats, sizes.tolerance, rng)
    warned = [record["warnings"][0] for record in records if record["warnings"]]
    summary = SizeSummary(
        name=name,
        outdir=outdir,
        results=results,
        curve=curve,
        tolerance=sizes.tolerance,
        planned=len(trainings),
        test=study.test.size,
        outcome=outcome,
        warnings=tuple(warned),
    )
    write_summary(summary, records, settings.to_dict() | asdict(sizes) | {"cube_sha256": study.cube_sha256})
    return summary


def _check(name: str, settings: TrainSettings) -> None:
    ModelFiles.named(Path(), name)
    Normalisation(settings.normalisation)
    if len(settings.seeds) > 1:
        raise UsageError(
            "--seed is a single number here: the trainings of a size take it and the numbers after it, and --repeats "
            "says how many they are"
        )


def _plan(cube: Path, folder: Path, settings: TrainSettings, sizes: SizeSettings) -> tuple[Study, list[Training]]:
    datacube = open_in_planes(cube, sizes.planes)
    check_members(cube)
    rows = usable_rows(datacube)
    labels, groups = datacube.labels[rows], group_by(datacube, settings.group_key)[rows]
    training, test = split_rows(labels, groups, settings.frac, settings.seed)
    counts = choose_sizes(labels[training], sizes.n_sections)
    if len(counts) < sizes.n_sections:
        log.warning("there are %d different sizes only, from %d to %d rows", len(counts), counts[-1], counts[0])
    study = Study(cube, sizes.planes, sha256(cube), settings, rows[test], folder)
    trainings = []
    for repeat in range(sizes.repeats):
        # The first training of all rows is that of otrain-train with the same settings.
        seed = (settings.seed + repeat) % SEEDS
        order = training[rank_rows(labels[training], groups[training], np.random.default_rng(seed))]
        trainings += [Training.of(study, repeat, seed, np.sort(rows[order[:count]])) for count in counts]
    return study, trainings


def _train(study: Study, trainings: Sequence[Training], sizes: SizeSettings, progress: Progress | None) -> Outcome:
    left = {each.key: each for each in trainings if read_record(study, each) is None}
    done = len(trainings) - len(left)
    if done:
        log.info("%d of %d trainings were done before", done, len(trainings))

    def report(_key: str, record: Record) -> None:
        nonlocal done
        done += 1
        if progress:
            mcc = record["test"]["mcc"]
            said = "undefined" if mcc is None else f"{mcc:.3f}"
            progress(done, len(trainings), f"{record['size']} rows, MCC {said}")

    if progress:
        progress(done, len(trainings), "")
    processes = sizes.processes or suitable_processes(memory_of(study.settings))
    if left:
        log.info("%d trainings to do, %d at a time", len(left), min(processes, len(left)))
    return run_in_processes(train_one, study, left, processes, report)
