"""Models shown and verified, drift looked for, and the machine examined: what otrain-model prints."""

import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_infer.card import Cascade, ModelCard
from otrain_infer.command import available_processors
from otrain_infer.drift import PSI_LARGE, PSI_MODERATE, Drift, Reference, compare_scores
from otrain_infer.errors import MissingExtraError, ModelError, OtrainError, SourceError, UsageError
from otrain_infer.jit import compile_all
from otrain_infer.scorer import Scorer, Scores
from otrain_infer.session import has_fast_int8, import_runtime, installed_runtimes
from otrain_infer.table import read_table

if TYPE_CHECKING:
    from astropy.table import Table

TOLERANCE = 1e-4
"""Largest difference allowed between a golden score and the one found here."""
INT8_TOLERANCE = 0.02
"""The same in int8: a sum that another processor rounds in another way may fall on the next step of 8 bits."""

Model = str | os.PathLike[str] | bytes | None


def describe(model: Model) -> str:
    """Say in words what a model needs and promises.

    Parameters
    ----------
    model
        ONNX file; None for the embedded demonstration model.

    Returns
    -------
    str
        Several lines.

    Raises
    ------
    ModelError
        When the file is not a model with a card.
    """
    scorer = Scorer(model)
    card = scorer.card
    padding = card.normalisation.padding
    said = {
        "model": scorer.identity,
        "sha-256": scorer.sha256,
        "created": card.created,
        "description": card.description or "none",
        "planes": ", ".join(card.planes),
        "size": f"{card.size[0]} x {card.size[1]} pixels (ny x nx)",
        "normalisation": f"{card.normalisation.method}, each plane of each cutout on its own",
        "padding": f"side {padding.side}, value {padding.value:g}, {padding.when} scaling",
        "threshold": f"{card.threshold:g}",
        "outputs": _outputs_in_words(scorer),
        "precision": f"{scorer.precision} on this machine",
        "golden cutouts": str(len(card.golden.scores) if card.golden else 0),
    }
    sections = [_aligned(said)]
    if card.operating_points:
        sections.append("operating points, with what they brought on the validation rows\n" + _points_in_words(card))
    if card.cascade:
        sections.append("int8 copy of the network, judged on calibration cutouts\n" + _cascade_in_words(card.cascade))
    for title, content in (
        ("figures, of the exported model on the validation rows", card.metrics),
        ("calibration", card.calibration),
        ("training", card.training),
    ):
        if content:
            sections.append(f"{title}\n{_aligned({key: _in_words(value) for key, value in content.items()})}")
    return "\n\n".join(sections)


def _outputs_in_words(scorer: Scorer) -> str:
    if not scorer.has_spread:
        return "score"
    members = scorer.card.training.get("members", "several")
    return f"score, the mean of {members} networks, and spread, the standard deviation of theirs"


def _aligned(said: dict[str, str]) -> str:
    width = max(map(len, said)) + 2
    return "\n".join(f"  {key.replace('_', ' '):<{width}}{value}" for key, value in said.items() if value)


def _points_in_words(card: ModelCard) -> str:
    rows = ["  point         threshold    recall       FPR  precision"]
    for point in card.operating_points:
        rows.append(
            f"  {point.name:<14}{point.threshold:>9.4g}{point.recall:>10.4f}{point.fpr:>10.4f}{point.precision:>11.4f}"
        )
    return "\n".join(rows)


def _cascade_in_words(cascade: Cascade) -> str:
    said = {
        "cutouts": str(cascade.rows),
        "scored again": f"{cascade.rescored:.2%} of them, whose int8 score is in "
        + ", ".join(f"{low:.4g}-{high:.4g}" for low, high in cascade.intervals),
        "called otherwise": _rates_in_words(cascade.flips),
        "by int8 alone": _rates_in_words(cascade.flips_alone),
        "change of a score": f"{cascade.mean_change:.2g} on average, {cascade.largest_change:.2g} at most",
    }
    return _aligned(said)


def _rates_in_words(rates: dict[str, float]) -> str:
    return ", ".join(f"{rate:.2%} at {name}" for name, rate in rates.items())


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_in_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def verify(model: Model) -> tuple[str, bool]:
    """Score the golden cutouts of a model here and compare with the scores it promises.

    Every kernel is compiled besides, so that after this no command need wait for that.

    Parameters
    ----------
    model
        ONNX file, or its bytes; None for the embedded demonstration model.

    Returns
    -------
    report : str
        One line.
    passed : bool
        Whether the largest difference is at most `TOLERANCE`, and in int8 at most `INT8_TOLERANCE`.

    Raises
    ------
    ModelError
        When the model has no golden cutouts, or is none.
    """
    scorer = Scorer(model)
    golden = scorer.card.golden
    if golden is None:
        raise ModelError(f"{scorer.identity} carries no golden cutouts: export it anew with otrain-export")
    compile_all()
    runners = [(scorer, golden.scores, TOLERANCE)]
    if scorer.card.cascade:
        runners = [(Scorer(model, precision="fp32"), golden.scores, TOLERANCE)]
        if has_fast_int8():
            copied = np.array(scorer.card.cascade.golden, np.float32)
            runners.append((Scorer(model, precision="int8"), copied, INT8_TOLERANCE))
    passed, found = True, []
    for runner, expected, allowed in runners:
        difference = float(np.max(np.abs(runner.score_pixels(golden.pixels) - expected)))
        passed &= difference <= allowed
        found.append(f"largest difference {difference:.3g} in {runner.precision} (allowed {allowed:g})")
    verdict = "passed" if passed else "FAILED"
    count = len(golden.scores)
    return f"{verdict}: {scorer.identity}, {count} golden cutouts on {scorer.device}, {', '.join(found)}", passed


def find_drift(tables: Sequence[str], model: Model, window: int | None = None) -> tuple[str, bool]:
    """Compare the scores of tables with those of the rows that their model was checked on.

    Parameters
    ----------
    tables
        Files that otrain-infer wrote.
    model
        That gave the scores: ONNX file, or its bytes; None for the embedded demonstration model.
    window
        Rows that are compared at a time; None for each table as a whole.

    Returns
    -------
    report : str
        A line for each window, and one for each table of another model.
    steady : bool
        Whether none has drifted, see `Drift`.

    Raises
    ------
    ModelError
        When the card of the model has no reference.
    SourceError
        When a table cannot be read, or has no scores.
    UsageError
        When the window is empty.
    """
    if window is not None and window < 1:
        raise UsageError(f"a window of {window} rows holds nothing: give 1 or more")
    scorer = Scorer(model)
    reference = Reference.from_card(scorer.card)
    if reference is None:
        raise ModelError(f"{scorer.identity} carries no reference: export it anew with --calibration-cube")
    drifts, lines = [], []
    for path in tables:
        table = read_table(path)
        others = sorted(_models_of(table) - {scorer.identity})
        lines += [f"{path}: scored by {', '.join(others)}, not by {scorer.identity}"] if others else []
        for rows, part in _windows(_scores_of(table, path), window):
            drifts.append(compare_scores(reference, part))
            lines.append(f"{_drift_in_words(drifts[-1])}, {path} {rows}")
    return "\n".join(lines), not any(drift.drifted for drift in drifts)


def _windows(scores: Scores, window: int | None) -> Iterator[tuple[str, Scores]]:
    step = window or max(len(scores), 1)
    for start in range(0, max(len(scores), 1), step):
        part = scores[start : start + step]
        yield f"rows {start + 1}-{start + len(part)}" if len(part) else "without rows", part


def _scores_of(table: "Table", path: str) -> Scores:
    if "label1" not in table.colnames:
        raise SourceError(f"the table '{path}' has no column label1, which holds the scores")
    try:
        scores: Scores = np.ma.filled(np.ma.asarray(table["label1"]).astype(np.float32), np.nan)
    except (TypeError, ValueError):
        scores = np.array([math.inf], np.float32)
    if (np.isinf(scores) | (scores < 0) | (scores > 1)).any():
        raise SourceError(f"the table '{path}' has other things than scores, from 0 to 1, in its column label1")
    return scores


def _models_of(table: "Table") -> set[str]:
    return {str(name) for name in np.unique(table["model"])} if "model" in table.colnames else set()


def _drift_in_words(drift: Drift) -> str:
    if not drift.rows:
        return "no scores"
    real = "" if math.isnan(drift.real) else f", about {100 * drift.real:.3g} % of them real"
    size = "large" if drift.psi >= PSI_LARGE else "moderate" if drift.psi >= PSI_MODERATE else "small"
    verdict = "DRIFTED" if drift.drifted else "too few to tell" if drift.psi >= PSI_LARGE else "steady"
    return (
        f"{verdict}: PSI {drift.psi:.3f} ({size}), KS {drift.ks:.3f} (by chance up to "
        f"{drift.ks_critical:.3f}), {drift.rows} scores{real}"
    )


def examine_machine() -> str:
    """Tell versions, usable devices, threads, cache folders and start-up times of this machine.

    Returns
    -------
    str
        Several lines.
    """
    lines = [f"python       {platform.python_version()} on {platform.platform()}"]
    lines += [f"{name:<13}{_version(name)}" for name in ("otrain", "numpy", "numba", "astropy", "isal")]
    lines.append(f"runtime      {_runtime_in_words()}")
    lines += [f"device {device:<6}{_device_in_words(device)}" for device in ("cpu", "cuda")]
    lines.append(f"int8         {'faster than fp32 here' if has_fast_int8() else 'not faster than fp32 here'}")
    lines.append(f"threads      {available_processors()} processors may be used of {os.cpu_count()}")
    lines += [f"cache        {line}" for line in _caches_in_words()]
    lines += [f"start-up     {line}" for line in _start_up_in_words()]
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _runtime_in_words() -> str:
    found = ", ".join(f"{name} {_version(name)}" for name in installed_runtimes()) or "none"
    try:
        providers = ", ".join(import_runtime().get_available_providers())
    except MissingExtraError as error:
        return f"{found}: {error}"
    return f"{found}; built with {providers}"


def _device_in_words(device: str) -> str:
    try:
        Scorer(device=device)
    except OtrainError as error:
        return f"not usable: {error}"
    return "usable"


def _caches_in_words() -> list[str]:
    from otrain_infer import fits_kernels, normalise

    lines = []
    for module in (normalise, fits_kernels):
        kernels = [each for each in vars(module).values() if hasattr(each, "stats") and hasattr(each, "py_func")]
        folders = sorted({str(kernel.stats.cache_path or "compiled anew at each start") for kernel in kernels})
        lines.append(f"kernels of {module.__name__}: {', '.join(folders)}")
    return lines


STARTS = {
    "python alone": "pass",
    "import otrain_infer": "import otrain_infer",
    "first score": "import numpy, otrain_infer as o; s = o.Scorer(); s.score_pixels(numpy.zeros((1, *s.card.shape)))",
}


def _start_up_in_words() -> list[str]:
    lines = []
    for name, code in STARTS.items():
        times = []
        for _ in range(3):
            start = perf_counter()
            ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
            times.append(perf_counter() - start)
        took = f"{median(times):.2f} s" if ended.returncode == 0 else "failed"
        lines.append(f"{name}: {took} (median of 3 processes)")
    return lines
