import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from astropy.io import ascii as ascii_tables
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as hypothesis_arrays

from otrain_infer import Cutouts, read_cutouts
from otrain_infer.cutouts import NUMBERS, TEXTS
from otrain_infer.errors import MissingExtraError, OtrainError, OutputError, SourceError, UsageError
from otrain_infer.table import FORMATS, ROWS_AT_A_TIME, build_table, read_table, write_table, writing

COLUMNS = [
    "filename",
    "RA",
    "Dec",
    "originalFile",
    "Xpos",
    "Ypos",
    "mag",
    "magerr",
    "FWHM",
    "FWHMPSF",
    "cand_ID",
    "label0",
    "label1",
    "flags",
    "model",
]


@pytest.fixture
def table(folder, scorer):
    (folder / "c2.fits").write_text("")
    cutouts = read_cutouts(folder, card=scorer.card)
    return build_table(cutouts, scorer.score(cutouts), scorer.identity)


def test_the_columns_are_the_originals_and_two_more(table):
    assert table.colnames == COLUMNS
    assert len(table) == 10
    np.testing.assert_allclose(np.delete(table["label0"] + table["label1"], 2), 1)
    assert np.isnan(table["label1"][2])
    assert table["flags"][2] == 1
    assert table["cand_ID"][3] == "7_3"


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_comes_back(table, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"scores{suffix}"
    write_table(table, path)
    back = read_table(path)
    assert back.colnames == COLUMNS
    np.testing.assert_allclose(np.ma.filled(back["label1"].astype(float), np.nan), table["label1"], rtol=1e-7)
    assert [str(name) for name in back["filename"]] == table["filename"].tolist()
    assert np.asarray(back["flags"]).tolist() == table["flags"].tolist()
    assert os.listdir(tmp_path).count(path.name) == 1


def test_scripts_for_the_original_can_read_it(table, tmp_path):
    write_table(table, tmp_path / "infer_results.dat")
    lines = (tmp_path / "infer_results.dat").read_text().splitlines()
    assert lines[0].split() == ["#", *COLUMNS]
    assert len(ascii_tables.read(tmp_path / "infer_results.dat", format="commented_header")) == 10


def test_an_older_table_stays_when_writing_fails(table, tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    table["extra"] = np.zeros((len(table), 2))
    with pytest.raises(ValueError, match="dimension > 1"):
        write_table(table, path)
    assert path.read_text() == "old"
    assert "scores.csv" in os.listdir(tmp_path)


NAMES = [
    "#h.fits",
    " space.fits",
    "line\rend.fits",
    "bell\x07.fits",
    "\u2028x.fits",
    "é☃.fits",
    "quote'\".fits",
    "a b.fits",
]


@pytest.mark.parametrize("suffix", [".dat", ".csv", ".ecsv", ".vot", ".fits", ".parquet"])
def test_no_name_costs_a_row(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    n = len(NAMES)
    header = {key: np.full(n, np.nan) for key in NUMBERS} | {key: np.full(n, "#x") for key in TEXTS}
    cutouts = Cutouts(np.array(NAMES), np.empty((n, 0, 0, 1), np.float32), header, np.zeros(n, np.uint32))
    table = build_table(cutouts, np.linspace(0, 1, n, dtype=np.float32), "m")
    write_table(table, tmp_path / f"t{suffix}")
    back = read_table(tmp_path / f"t{suffix}")
    assert len(back) == n
    expected = table["filename"].tolist()
    assert expected[:4] == ["./#h.fits", "./ space.fits", r"line\rend.fits", r"bell\x07.fits"]
    if suffix == ".fits":
        expected = [name.encode("ascii", "backslashreplace").decode() for name in expected]
    assert [str(name) for name in back["filename"]] == expected


LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=6)


# Control characters were escaped before; of a line end among them, Python's versions disagree whether it is quoted.
WITHOUT_CONTROLS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)


@settings(deadline=None)
@given(st.data())
def test_text_is_what_astropy_writes(data):
    n = data.draw(st.integers(1, 5))
    column = partial(hypothesis_arrays, shape=n)
    columns = {
        "text": np.array(data.draw(st.lists(LINES, min_size=n, max_size=n)), np.str_),
        "double": data.draw(column(np.float64)),
        "single": data.draw(column(np.float32)),
        "flags": data.draw(column(np.uint32)),
        "quoted": np.array(data.draw(st.lists(st.text(" ,\"#'\t", max_size=4), min_size=n, max_size=n)), np.str_),
    }
    with TemporaryDirectory() as folder:
        for suffix in (".dat", ".csv"):
            ours, theirs = Path(folder, f"ours{suffix}"), Path(folder, f"theirs{suffix}")
            with writing(ours) as write:
                write(columns)
            write_table(Table(columns), theirs)
            assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_in_parts_or_at_once_the_file_is_the_same(suffix, tmp_path):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    columns = {"text": np.array(["a", "", "a longer one", "b c"]), "number": np.array([1.5, np.nan, -1e300, 0.1])}
    columns["flags"] = np.arange(4, dtype=np.uint32)
    with writing(tmp_path / f"parts{suffix}") as write:
        for rows in (slice(0, 2), slice(2, 3), slice(3, 3), slice(3, 4)):
            part = {name: column[rows] for name, column in columns.items()}
            write(part | {"text": np.array(part["text"].tolist(), np.str_)})
    write_table(Table(columns), tmp_path / f"once{suffix}")
    assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"once{suffix}").read_bytes()


def test_nothing_is_left_of_a_table_that_was_not_finished(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "t.dat") as write:
        write({"number": np.arange(5)})
        1 / 0  # noqa: B018
    assert not os.listdir(tmp_path)


def test_rows_beyond_one_block_are_all_written(tmp_path):
    columns = {"row": np.arange(2 * ROWS_AT_A_TIME + 1)}
    with writing(tmp_path / "rows.csv") as write:
        write(columns)
    assert (tmp_path / "rows.csv").read_text().split() == ["row", *map(str, columns["row"])]


def test_endings_and_files_that_are_refused(table, tmp_path):
    with pytest.raises(UsageError, match="does not end in one of"):
        write_table(table, tmp_path / "scores.xlsx")
    (tmp_path / "bad.ecsv").write_text("no table")
    (tmp_path / "empty.csv").touch()
    for name in ("none.dat", "bad.ecsv", "empty.csv"):
        with pytest.raises(SourceError, match="cannot be read"):
            read_table(tmp_path / name)


def test_a_name_that_is_not_utf8(scorer, folder, tmp_path):
    os.rename(os.fsencode(folder / "c0.fits"), os.fsencode(folder) + b"/c\xff.fits")
    cutouts = read_cutouts(folder, card=scorer.card)
    table = build_table(cutouts, scorer.score(cutouts), "m")
    write_table(table, tmp_path / "scores.dat")
    assert r"c\xff.fits" in Table.read(tmp_path / "scores.dat", format="ascii.commented_header")["filename"][-1]


def test_errors_have_two_parents():
    for error, parent in (
        (UsageError, ValueError),
        (SourceError, OSError),
        (OutputError, OSError),
        (MissingExtraError, ImportError),
    ):
        assert issubclass(error, OtrainError)
        assert issubclass(error, parent)
