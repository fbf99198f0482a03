"""Simulated sources and candidates, in files as the programs of the field write them."""

import logging

import numpy as np
import pytest

from otrain_infer.errors import SourceError, UsageError
from otrain_infer.table import read_table, write_table
from otrain_train.crossmatch import read_crossmatch
from otrain_train.crossmatch_tables import as_candid

CROSSMATCH = """\
# idx filename Xpos Ypos RA Dec mag filter filename2 Nmatches closest_candID all_candIDs edge
0 /d/one.fits 10.5 20.5 150.1 2.1 17.25 R one.fits 1 12 12 N
1 /d/one.fits 30.5 40.5 150.2 2.2 20.5 R one.fits 2 7 7,8 Y
2 /d/one.fits 50.5 60.5 150.3 2.3 21.75 R one.fits 0 "" "" ""
0 /d/two.fits 10.5 20.5 150.4 2.4 18.0 G two.fits 1 3 3 N
1 /d/two.fits 30.5 40.5 150.5 2.5 19.0 G two.fits 1 99 99 N
2 /d/two.fits 50.5 60.5 150.6 2.6 22.5 G two.fits 0 None None None
"""

SCORES = """\
# filename RA Dec originalFile Xpos Ypos mag magerr FWHM FWHMPSF cand_ID label0 label1
c/candidate_3.fits 150.4 2.4 /d/two.fits 10.0 20.0 18.1 0.05 3.5 3.0 3 0.1 0.9
c/candidate_7.fits 150.2 2.2 /d/one.fits 30.0 40.0 20.4 0.1 2.5 3.0 7 nan nan
c/candidate_8.fits 150.2 2.2 /d/one.fits 31.0 40.0 -99.0 -99.0 9.0 3.0 8 0.6 0.4
c/candidate_12.fits 150.1 2.1 /d/one.fits 10.0 20.0 17.2 0.01 3.0 3.0 12 0.2 0.8
c/candidate_40.fits 150.9 2.9 /d/one.fits 90.0 90.0 19.3 0.1 12.0 0.0 40 0.95 0.05
"""


def tables(folder, crossmatch=CROSSMATCH, scores=SCORES):
    paths = folder / "crossmatch.dat", folder / "infer_results.dat"
    for path, text in zip(paths, (crossmatch, scores), strict=True):
        path.write_text(text)
    return paths


def test_a_source_gets_the_score_of_its_own_candidate(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = read_crossmatch(*tables(tmp_path))
    # idx is 0, 1, 2 twice: taken for a row number it would give the second list the magnitudes of the first.
    assert found.sources.indices.tolist() == ["0", "1", "2", "0", "1", "2"]
    assert found.sources.mags.tolist() == [17.25, 20.5, 21.75, 18.0, 19.0, 22.5]
    assert found.sources.filters.tolist() == ["R"] * 3 + ["G"] * 3
    np.testing.assert_array_equal(found.scores, np.float32([0.8, np.nan, np.nan, 0.9, np.nan, np.nan]))
    np.testing.assert_allclose(found.fwhm_ratios, [1.0, 2.5 / 3, np.nan, 3.5 / 3, np.nan, np.nan])
    assert found.found.tolist() == [True, True, False, True, True, False]
    assert found.known.tolist() == [True, True, True, True, False, True]
    assert found.candidates.candids[found.simulated].tolist() == ["3", "7", "12"]
    assert found.candidates.candids[found.near].tolist() == ["8"]
    assert found.candidates.candids[found.others].tolist() == ["40"]
    assert np.isnan(found.candidates.mags[2])
    assert np.isnan(found.candidates.fwhm_ratios[4])
    said = "\n".join(found.notes)
    assert said == "\n".join(caplog.messages)
    for words in (
        "the candidates of 1 simulated source(s) are not in the table of scores",
        "1 candidate(s) are near a simulated source",
        "1 simulated source(s) have their candidate at the edge",
        "1 of 5 candidates have no score",
    ):
        assert words in said


def test_the_folders_of_the_original_name_its_files(tmp_path):
    tables(tmp_path)
    assert len(read_crossmatch(tmp_path, tmp_path).sources) == 6


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".fits", ".vot", ".parquet"])
def test_scores_in_other_formats(tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    crossmatch, infer = tables(tmp_path)
    table = read_table(infer)
    table["flags"], table["model"] = np.zeros(len(table), np.uint32), "m 1 abc"
    other = tmp_path / f"scores{suffix}"
    write_table(table, other)
    expected, got = read_crossmatch(crossmatch, infer), read_crossmatch(crossmatch, other)
    np.testing.assert_array_equal(got.scores, expected.scores)
    assert got.candidates.candids.tolist() == expected.candidates.candids.tolist()
    assert got.notes == expected.notes


def test_an_identifier_on_another_image_is_another_candidate(tmp_path):
    found = read_crossmatch(*tables(tmp_path, scores=SCORES.replace("/d/two.fits", "/d/three.fits")))
    np.testing.assert_array_equal(found.scores, np.float32([0.8, np.nan, np.nan, np.nan, np.nan, np.nan]))
    assert "1 candidate(s) of the identifier of a source's are on another image" in "\n".join(found.notes)
    renamed = SCORES.replace("/d/two.fits", "/e/2.fits").replace("/d/one.fits", "/e/1.fits")
    found = read_crossmatch(*tables(tmp_path, scores=renamed))
    np.testing.assert_array_equal(found.scores, np.float32([0.8, np.nan, np.nan, 0.9, np.nan, np.nan]))
    assert "is on an image of its source's name ('one.fits' and '1.fits', for one)" in "\n".join(found.notes)


def test_duplicates_are_told(tmp_path):
    again = (
        "1 /d/two.fits 30.5 40.5 150.5 2.5 19.0 G two.fits 1 99 99 N\n3 /d/one.fits 1 1 1 1 15.0 R one.fits 1 12 12 N\n"
    )
    extra = (
        "c/a.fits 1 2 /d/one.fits 1 1 17 0.1 6.0 3.0 12 0.5 0.5\n"
        "c/b.fits 1 2 /d/one.fits 1 1 17 0.1 6.0 3.0 7 0.7 0.3\n"
        'c/c.fits 1 2 f 1 1 17 0.1 6.0 3.0 "" 0.7 0.3\n'
        'c/d.fits 1 2 f 1 1 17 0.1 6.0 3.0 "" 0.7 1.3\n'
    )
    found = read_crossmatch(*tables(tmp_path, CROSSMATCH + again, SCORES + extra))
    assert len(found.sources) == 7
    # The first row of 12 counts, and of 7 the one that has a score.
    np.testing.assert_array_equal(found.scores[[0, 1, 6]], np.float32([0.8, 0.3, 0.8]))
    assert found.others.sum() == 3
    said = "\n".join(found.notes)
    for words in (
        "1 row(s) of simulated sources repeat",
        "2 cand_ID(s) stand more than once in the table of scores",
        "and 2 row(s) are left out",
        "2 candidate(s) have no cand_ID",
        "1 candidate(s) have a label1 that is no score",
        "1 candidate(s) are the nearest of more than one simulated source (2 in all)",
    ):
        assert words in said


@pytest.mark.parametrize("text", ["7;8", "7,8,", '"7, 8"', "7|8"])
def test_lists_of_candidates_in_any_spelling(tmp_path, text):
    found = read_crossmatch(*tables(tmp_path, CROSSMATCH.replace("7,8", text)))
    assert found.candidates.candids[found.near].tolist() == ["8"]


def test_a_list_without_anything_between_is_told(tmp_path):
    scores = SCORES + "c/e.fits 1 2 f 1 1 17 0.1 6.0 3.0 78 0.7 0.3\n"
    found = read_crossmatch(*tables(tmp_path, CROSSMATCH.replace("7,8", "78"), scores))
    assert not found.near.any()
    assert "all_candIDs of 1 simulated source(s)" in found.notes[0]


def test_long_identifiers_keep_their_digits(tmp_path):
    long = "1234567890123456789"
    crossmatch = CROSSMATCH.replace("1 12 12 N", f"1 {long} {long} N").replace("None None None", "nan nan nan")
    found = read_crossmatch(*tables(tmp_path, crossmatch, SCORES.replace(" 12 0.2", f" {long} 0.2")))
    assert found.scores[0] == np.float32(0.8)
    assert not found.found[5]


def test_texts_in_columns_of_numbers(tmp_path):
    scores = SCORES.replace(" 17.2 0.01 3.0 3.0", " '-99.0' None 'None' 3.0").replace(" 20.5 R", " 99.0 R")
    found = read_crossmatch(*tables(tmp_path, CROSSMATCH.replace(" 20.5 R", " 99.0 R"), scores))
    assert np.isnan(found.fwhm_ratios[0])
    assert np.isnan(found.sources.mags[1])
    assert any("1 simulated source(s) have no magnitude" in note for note in found.notes)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("12", "12"), (" 12.0 ", "12"), ("12.", "12"), ("ZTF12.0a", "ZTF12.0a"), ("1.50", "1.50")]
    + [(missing, "") for missing in ("", "None", "nan", "--", " NULL ")],
)
def test_identifiers_in_one_spelling(given, wanted):
    assert as_candid(given) == wanted


@pytest.mark.parametrize(
    ("crossmatch", "scores", "error", "said"),
    [
        (
            CROSSMATCH,
            CROSSMATCH,
            UsageError,
            "has no column cand_ID label1 FWHM FWHMPSF; it looks like the other",
        ),
        (SCORES, SCORES, UsageError, "--crossmatch has no column closest_candID; it looks like the other"),
        (CROSSMATCH.replace(" mag ", " m "), SCORES, UsageError, "has no column mag (its columns: idx filename"),
        (CROSSMATCH.splitlines()[0], SCORES, SourceError, "of --crossmatch has no rows"),
        (CROSSMATCH, SCORES.splitlines()[0], SourceError, "of --infer has no rows"),
        ("", SCORES, SourceError, "cannot be read"),
        ("any words\nat all\n", SCORES, SourceError, "cannot be read"),
        (CROSSMATCH, "\x00\x01\n\x02 3", SourceError, "cannot be read"),
        (CROSSMATCH + "1 2\n", SCORES, SourceError, "cannot be read"),
    ],
)
def test_one_sentence_for_what_is_wrong(tmp_path, crossmatch, scores, error, said):
    with pytest.raises(error) as caught:
        read_crossmatch(*tables(tmp_path, crossmatch, scores))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_the_same(tmp_path):
    crossmatch, infer = tables(tmp_path)
    with pytest.raises(UsageError, match="are the same file"):
        read_crossmatch(infer, tmp_path / "." / "infer_results.dat")
    with pytest.raises(SourceError, match="there is no table"):
        read_crossmatch(crossmatch, tmp_path / "none.dat")
    with pytest.raises(UsageError, match="does not end in one of"):
        read_crossmatch(tmp_path / "crossmatch.txt", infer)


@pytest.mark.parametrize("written", ["-", "-1", "0", "nan", "None", '""'])
def test_a_source_of_no_matches_was_not_found_whatever_stands_for_its_candidate(tmp_path, written):
    lost = CROSSMATCH.replace('0 "" "" ""', f'0 {written} {written} ""')
    found = read_crossmatch(*tables(tmp_path, lost))
    assert found.found.tolist() == [True, True, False, True, True, False]
    assert found.known[2]
