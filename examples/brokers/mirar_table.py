"""O'TRAIN in mirar: the scores of a table of sources, by the stamps that its SourceDetector cut out.

In a pipeline's list of processors, where WINTER has its ``Pytorch(...)``::

    OtrainScores("otrain.onnx")
"""

import pandas as pd
from mirar.data import SourceBatch
from mirar.processors.base_processor import BaseSourceProcessor

from otrain_infer import Scorer
from otrain_infer.stamp_packets import read_stamps

STAMPS = {
    "SCI": ("cutout_science", "cutoutScience"),
    "REF": ("cutout_template", "cutoutTemplate"),
    "DIFF": ("cutout_difference", "cutoutDifference"),
}
"""Plane -> the columns that versions of mirar have put its stamps in."""


def apply_to_table(model: Scorer, table: pd.DataFrame) -> pd.DataFrame:
    """Give a table of sources with the column ``rb``, float32; NaN where the stamps cannot be scored."""
    found = {plane: [name for name in names if name in table] for plane, names in STAMPS.items()}
    stamps = {plane: table[names[0]] for plane, names in found.items() if names}
    return table.assign(rb=model.score(read_stamps(stamps, card=model.card)))


class OtrainScores(BaseSourceProcessor):
    """Scores each source of a batch.

    Parameters
    ----------
    model
        Path of the ONNX file.
    """

    base_key = "otrain"

    def __init__(self, model: str) -> None:
        super().__init__()
        self.scorer = Scorer(model)

    def description(self) -> str:
        """Say what it does."""
        return f"Processor to score sources with O'TRAIN's model {self.scorer.identity}"

    def _apply_to_sources(self, batch: SourceBatch) -> SourceBatch:
        for table in batch:
            table.set_data(apply_to_table(self.scorer, table.get_data()))
        return batch
