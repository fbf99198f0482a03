"""O'TRAIN in STDPipe: the scores of a table of transient candidates, from the images that they were found in.

    from stdpipe import pipeline
    candidates = pipeline.filter_transient_candidates(obj, ...)
    candidates = classify_otrain(candidates, Scorer("otrain.onnx"), image=image, template=template, diff=diff)

It does for difference images what `stdpipe.realbogus.classify_realbogus` does for single ones, with the same column and
the same flag.
"""

import io
from typing import Any

import numpy as np
from astropy.table import Table
from stdpipe.cutouts import get_cutout, write_cutout
from stdpipe.realbogus import FLAG_BOGUS

from otrain_infer import Scorer


def apply_to_table(obj: Table, scorer: Scorer, image: Any, template: Any = None, diff: Any = None) -> Table:
    """Give a copy of a table of objects, by its ``x`` and ``y``, with ``rb_score``, NaN where there is none.

    The planes are 2-D arrays on one grid; those that the model does not take may be left out.
    """
    planes = {"template": template, "diff": diff}
    planes = {name: np.asarray(plane, np.float32) for name, plane in planes.items() if plane is not None}
    image, radius = np.asarray(image, np.float32), max(scorer.card.size) // 2
    files = [_as_file(image, x, y, radius, planes) for x, y in zip(obj["x"], obj["y"], strict=True)]
    scored = obj.copy()
    scored["rb_score"] = scorer.score(scorer.reader.read(files))
    return scored


def classify_otrain(
    obj: Table, scorer: Scorer, threshold: float | None = None, flag_bogus: bool = True, **planes: Any
) -> Table:
    """Score a table of objects and, with `flag_bogus`, flag and drop those below the threshold or without a score."""
    scored = apply_to_table(obj, scorer, **planes)
    if not flag_bogus:
        return scored
    bogus = ~(scored["rb_score"] >= (scorer.card.threshold if threshold is None else threshold))
    if "flags" not in scored.colnames:
        scored["flags"] = np.zeros(len(scored), int)
    scored["flags"][bogus] |= FLAG_BOGUS
    return scored[~bogus]


def _as_file(image: Any, x: float, y: float, radius: int, planes: dict[str, Any]) -> bytes:
    """Cut out the planes about an object as STDPipe writes them; nothing, where its position is none."""
    if not (np.isfinite(x) and np.isfinite(y)):
        return b""
    file = io.BytesIO()
    write_cutout(get_cutout(image, {"x": x, "y": y}, radius, **planes), file)
    return file.getvalue()
