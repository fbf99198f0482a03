"""Tables that grow: whole rows, in the file that has the name, of one process."""

import numpy as np
import pytest

from otrain_infer.errors import OutputError, UsageError
from otrain_infer.growing_table import GrowingTable
from otrain_infer.table import read_table


def rows(*numbers):
    return {"name": np.array([f"n {k}" for k in numbers]), "value": np.array(numbers, np.float64)}


@pytest.mark.parametrize("name", ["t.csv", "t.dat"])
def test_rows_are_added_behind_those_that_are_there(tmp_path, name):
    for numbers in ((1, 2), (3,), ()):
        table = GrowingTable(str(tmp_path / name))
        table.append(rows(*numbers))
        table.close()
    assert read_table(tmp_path / name)["value"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_a_table_that_is_there_no_more_begins_anew(tmp_path, how):
    path = tmp_path / "t.csv"
    table = GrowingTable(str(path))
    table.append(rows(1))
    if how == "moved":
        path.rename(tmp_path / "t.1.csv")
    else:
        path.unlink()
    table.append(rows(2))
    table.close()
    assert read_table(path)["value"].tolist() == [2]


def test_a_folder_that_is_there_no_more_is_told(tmp_path):
    (tmp_path / "f").mkdir()
    table = GrowingTable(str(tmp_path / "f" / "t.csv"))
    table.append(rows(1))
    (tmp_path / "f" / "t.csv").unlink()
    (tmp_path / "f").rmdir()
    with pytest.raises(OutputError, match="cannot be written"):
        table.append(rows(2))


def test_two_do_not_write_one_table(tmp_path):
    table = GrowingTable(str(tmp_path / "t.csv"))
    with pytest.raises(OutputError, match="another process writes the table"):
        GrowingTable(str(tmp_path / "t.csv"))
    table.close()
    GrowingTable(str(tmp_path / "t.csv")).close()


@pytest.mark.parametrize("content", [b"\xff\xfe no table", b"a,b\n1,2\n3,", b"name,values", b"name,value,"])
def test_what_is_no_table_of_these_columns_is_left_as_it_is(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    table = GrowingTable(str(tmp_path / "t.csv"))
    with pytest.raises(OutputError, match="has other columns"):
        table.append(rows(1))
    table.close()
    assert (tmp_path / "t.csv").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"name,va", b"name,value", b"name,value\nn 0,"])
def test_what_a_killed_process_has_left_of_it_is_cut_off(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    table = GrowingTable(str(tmp_path / "t.csv"))
    table.append(rows(1))
    table.close()
    assert (tmp_path / "t.csv").read_text() == "name,value\nn 1,1.0\n"


def test_other_columns_and_other_formats_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    table = GrowingTable(str(tmp_path / "t.csv"))
    with pytest.raises(OutputError, match="has other columns"):
        table.append(rows(1))
    table.close()
    with pytest.raises(UsageError, match=r"ends in .csv or .dat"):
        GrowingTable(str(tmp_path / "t.fits"))
