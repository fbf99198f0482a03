"""The command gmadet-cnn_infer, with O'TRAIN's model in the place of gmadet's network.

    python gmadet.py --path-cutouts gmadet_results/candidates --path-model otrain.onnx

It takes the same options, scores the same files in the same order, and leaves the same table beside them, so that
gmadet-cnn_checkinfer goes on from there. A cutout that cannot be scored, or lacks a keyword, is a row with NaN, not the
end of the run. `otrain-infer` does the same job with more to choose from.
"""

import argparse
import glob
import os
import sys
from collections.abc import Sequence

from astropy.table import Table

from otrain_infer import Scorer, read_cutouts
from otrain_infer.table import build_columns, write_table

COLUMNS = ("filename", "RA", "Dec", "originalFile", "Xpos", "Ypos", "mag", "magerr", "FWHM", "FWHMPSF", "candID")
LABELS = ("label0", "label1")


def infer(path_cutouts: str, path_model: str, probratio: float = 0.001) -> None:  # noqa: ARG001 (gmadet makes no use of it)
    """Score all ``*.fits`` of a folder, and write ``infer_results.dat`` there."""
    files = sorted(glob.glob(f"{path_cutouts}/*.fits"))
    if not files:
        sys.exit(f"there is no cutout in {path_cutouts}")
    scorer = Scorer(path_model, threads=os.cpu_count() or 1)
    cutouts = read_cutouts(files, card=scorer.card, threads=scorer.threads)
    columns = build_columns(cutouts, scorer.score(cutouts), scorer.identity)
    columns["candID"] = columns["cand_ID"]
    write_table(Table({name: columns[name] for name in (*COLUMNS, *LABELS)}), f"{path_cutouts}/infer_results.dat")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Apply a previously trained model to a dataset.")
    parser.add_argument("--path_cutouts", "--path-cutouts", required=True, help="Path to cutouts.")
    parser.add_argument("--path_model", "--path-model", required=True, help="Path to the ONNX model.")
    parser.add_argument("--probratio", "--prob-ratio", type=float, default=0.001, help="Not used, as in gmadet.")
    told = parser.parse_args(argv)
    infer(told.path_cutouts, told.path_model, told.probratio)


if __name__ == "__main__":
    main()
