"""A folder of candidates and what is behind the page of otrain-label: orders, shades, moves, blind looks, guard."""

import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.io import fits
from astropy.visualization import ZScaleInterval
from matched import make_matched
from test_convert import write_cutout
from test_votes import make_vote, tally_of

from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train import cli_label
from otrain_train.candidate_folder import find_candidates, key_of
from otrain_train.cli_label import label
from otrain_train.label.again import SecondLooks
from otrain_train.label.desk import Desk, DeskSettings, check_labeller
from otrain_train.label.moves import move, plan_moves, undo
from otrain_train.label.order import ORDERS, order_of
from otrain_train.label.pictures import PictureReader
from otrain_train.label.serve import ServerSettings
from otrain_train.label.stretch import MISSING, STRETCHES, shade, zscale
from otrain_train.mock import MockSettings, mock_arrays, write_mock
from otrain_train.verdicts import Rule
from otrain_train.votes import HEADER, Journal


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def tree(folder):
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)


def votes_on(**choices):
    return tally_of(*(make_vote(f"{key}.fits", choice) for key, choice in choices.items()))


def test_candidates_lie_anywhere_below_and_keep_their_key_when_sorted(tmp_path):
    touch(
        tmp_path, "b.fits", "a.FITS.gz", "night/x.fit", "night/True/y.fits", "false/z.fits", ".hidden/h.fits", "no.txt"
    )
    found = find_candidates(tmp_path)
    assert found.keys == ["a.FITS.gz", "b.fits", "night/x.fit", "night/y.fits", "z.fits"]
    assert found.paths == ["a.FITS.gz", "b.fits", "night/x.fit", "night/True/y.fits", "false/z.fits"]
    os.renames(tmp_path / "b.fits", tmp_path / "false" / "b.fits")  # by somebody else, meanwhile
    assert found.path(1) == str(tmp_path / "false" / "b.fits")
    assert find_candidates(tmp_path).keys == found.keys


def test_two_files_of_one_name_have_whole_paths_for_keys_and_one_file_of_two_names_has_one(tmp_path):
    touch(tmp_path, "a.fits", "true/a.fits", "b.fits")
    (tmp_path / "true" / "b.fits").hardlink_to(tmp_path / "b.fits")
    found = find_candidates(tmp_path)
    assert found.keys == ["./a.fits", "b.fits", "true/a.fits"]  # votes on a.fits are about neither
    assert found.paths == ["a.fits", "true/b.fits", "true/a.fits"]
    assert [found.is_sortable(i) for i in range(3)] == [False, True, False]
    assert found.path(0) == str(tmp_path / "./a.fits")
    assert key_of("true") == "true"


def test_only_those_that_are_not_sorted_yet(tmp_path):
    touch(tmp_path, "a.fits", "true/b.fits", "n/false/c.fits", "n/d.fits")
    assert find_candidates(tmp_path, unsorted=True).keys == ["a.fits", "n/d.fits"]
    (tmp_path / "n" / "d.fits").unlink()
    with pytest.raises(SourceError, match="are sorted"):
        find_candidates(tmp_path / "n", unsorted=True)


def test_an_empty_folder_and_none_at_all_are_one_sentence(tmp_path):
    with pytest.raises(SourceError, match="there is no cutout"):
        find_candidates(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        find_candidates(tmp_path / "none")


def test_orders():
    scores = np.array([[0.9, 0.5, np.nan, 0.4], [0.1, 0.5, 0.2, 0.8]], np.float32)
    none = np.zeros(4, np.bool_)
    assert order_of("name", none, scores, 0).tolist() == [0, 1, 2, 3]
    assert order_of("uncertainty", none, scores, 0).tolist() == [1, 3, 0, 2]
    assert order_of("disagreement", none, scores, 0).tolist() == [0, 3, 1, 2]
    at_random = [order_of("random", np.zeros(400, np.bool_), scores, seed).tolist() for seed in (1, 1, 2)]
    assert at_random[0] == at_random[1] != at_random[2]
    assert sorted(at_random[0]) == list(range(400))
    with pytest.raises(UsageError, match="--model and --other-model"):
        DeskSettings("ada", order="disagreement")


def test_a_place_in_an_order_by_scores_tells_nothing_of_a_blind_look():
    n = 2000
    scores = np.linspace(0, 1, n, dtype=np.float32)[None]
    blind = np.random.default_rng(1).random(n) < 0.3
    found = order_of("uncertainty", blind, scores, 0)
    assert sorted(found.tolist()) == list(range(n))
    ranks = np.abs(scores[0, found] - 0.5)
    assert (np.diff(ranks[~blind[found]]) >= 0).all()
    assert abs(np.corrcoef(np.flatnonzero(blind[found]), ranks[blind[found]])[0, 1]) < 0.1


def test_the_command_and_what_is_behind_it_have_the_same_defaults():
    asked = cli_label._label_parser().parse_args(["x"])
    given = asked.host, asked.port, asked.token, not asked.no_browser
    assert ServerSettings(*given) == ServerSettings()
    assert DeskSettings(asked.labeller, (), asked.order, asked.seed, asked.blind_fraction) == DeskSettings(
        asked.labeller
    )
    assert Rule(asked.min_votes, asked.min_agreement, asked.weights) == Rule()
    assert cli_label.ORDERS == ORDERS


def test_zscale_is_that_of_astropy():
    pixels = mock_arrays(MockSettings(30, 30, seed=4)).cube
    rows = [plane[np.isfinite(plane)].astype(float) for cutout in pixels for plane in np.moveaxis(cutout, -1, 0)]
    rows += [np.arange(4.0), np.zeros(5000), np.random.default_rng(0).normal(size=999), np.r_[np.zeros(900), 1e30]]
    for row in rows:
        low, high = zscale(row[np.newaxis])
        np.testing.assert_allclose((low[0], high[0]), ZScaleInterval().get_limits(row), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("stretch", STRETCHES)
def test_missing_pixels_have_a_shade_of_their_own_and_up_is_up(stretch):
    pixels = np.random.default_rng(0).normal(size=(3, 12, 10, 2)).astype(np.float32)
    pixels[0, 11, 3, 1] = np.nan
    pixels[0, 0, 0, 0] = 1000
    pixels[1] = np.nan
    pixels[2] = 7
    shades = shade(pixels, stretch)
    assert shades.shape == (3, 2, 12, 10)
    assert (shades == MISSING).sum() == 1 + 240
    assert shades[0, 1, 0, 3] == MISSING
    assert shades[0, 0, 11, 0] == 255
    assert (shades[2] == shades[2, 0, 0, 0]).all()
    together = np.array_equal(shades[:1], shade(pixels[:1], stretch))
    assert together  # a picture does not depend on those beside it


def test_pictures_of_files_that_lack_a_plane_or_are_none(tmp_path):
    write_mock(tmp_path, MockSettings(3, 1, size=20, planes=("SCI", "DIFF"), edge_fraction=0, nan_fraction=0))
    (tmp_path / "true" / "z.fits").write_text("nothing of the kind")
    first = sorted((tmp_path / "true").glob("*.fits"))[0]
    with fits.open(first) as hdus:
        fits.HDUList([hdus[0], hdus["SCI"]]).writeto(first, overwrite=True)
    reader = PictureReader.of(find_candidates(tmp_path))
    assert (reader.planes, reader.size) == (("SCI", "DIFF"), (20, 20))
    said, shades = reader.pictures(range(5), "zscale", small=True)
    rows = {reader.candidates.paths[i]: i for i in range(5)}
    lacking, broken = rows[f"true/{first.name}"], rows["true/z.fits"]
    assert said[lacking]["flags"] == ["MISSING_PLANE"]
    assert (shades[lacking, 0] > 0).all()
    assert (shades[lacking, 1] == MISSING).all()
    assert said[broken]["flags"] == ["UNREADABLE"]
    assert said[broken]["reason"]
    assert (shades[broken] == MISSING).all()


def test_only_broken_files_can_be_looked_at_all_the_same(tmp_path):
    touch(tmp_path, "a.fits")
    desk = Desk(tmp_path, DeskSettings("ada"))
    said, _ = desk.pictures.pictures([0], "zscale", small=False)
    assert said[0]["reason"]
    answer = desk.vote("ada", [{"key": "a.fits", "vote": "false", "id": "0" * 32}])
    assert answer["kept"] == ["0" * 32]


def test_moving_and_undoing(tmp_path):
    touch(
        tmp_path, "a.fits", "b.fits", "c.fits", "d.fits", "n/False/e.fits", "f.fits", "true/f.fits", "g.fits", "h.fits"
    )
    (tmp_path / "h.fits").unlink()
    (tmp_path / "h.fits").symlink_to("g.fits")
    before = tree(tmp_path)
    tally = votes_on(a="true", b="false", c="unsure", h="true")
    for choice in ("true", "false"):
        tally.add(make_vote("d.fits", choice, labeller=choice))
    tally.add(make_vote("n/e.fits", "true"))
    tally.add(make_vote("./f.fits", "false"))
    candidates = find_candidates(tmp_path)
    plan = plan_moves(candidates, tally, Rule())
    assert dict(plan.classes) == {"true": 2, "false": 1}
    assert dict(plan.staying) == {"few": 1, "tie": 1, "link": 1, "name": 1}
    assert tree(tmp_path) == before
    assert move(candidates, plan) == len(plan.moves)
    assert (tmp_path / "true" / "a.fits").read_text() == "a.fits"
    assert (tmp_path / "n" / "true" / "e.fits").exists()
    assert (tmp_path / "true" / "f.fits").read_text() == "true/f.fits"
    assert candidates.keys == find_candidates(tmp_path).keys
    assert plan_moves(find_candidates(tmp_path), tally, Rule()).moves == []
    assert undo(candidates) == len(plan.moves)
    assert [each for each in tree(tmp_path) if each != "moves.csv"] == before
    with pytest.raises(SourceError, match="nothing to undo"):
        undo(candidates)


def test_no_file_is_moved_over_another(tmp_path):
    touch(tmp_path, "a.fits")
    candidates = find_candidates(tmp_path)
    plan = plan_moves(candidates, votes_on(a="true"), Rule())
    (tmp_path / "true").mkdir()
    (tmp_path / "true" / "a.fits").write_text("another")  # between plan and move
    assert move(candidates, plan) == 0
    assert (tmp_path / "a.fits").read_text() == "a.fits"
    with pytest.raises(SourceError, match="nothing to undo"):  # a move that moved nothing is none
        undo(candidates)
    assert (tmp_path / "true" / "a.fits").read_text() == "another"


def test_a_line_of_moves_that_was_cut_short_eats_no_other(tmp_path):
    touch(tmp_path, "a,b.fits", "c.fits")
    candidates = find_candidates(tmp_path)
    move(candidates, plan_moves(candidates, tally_of(make_vote("a,b.fits")), Rule()))
    undo(candidates)
    lines = (tmp_path / "moves.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "moves.csv").write_bytes(lines[0] + lines[1][:-5])  # within the quotes
    candidates = find_candidates(tmp_path)
    tally = tally_of(make_vote("a,b.fits"), make_vote("c.fits"))
    assert move(candidates, plan_moves(candidates, tally, Rule())) == 2
    assert undo(candidates) == 2


def test_folders_of_classes_in_capitals_are_found_when_they_come_later(tmp_path):
    touch(tmp_path, "a.fits")
    candidates = find_candidates(tmp_path)
    os.renames(tmp_path / "a.fits", tmp_path / "True" / "a.fits")
    assert candidates.path(0) == str(tmp_path / "True" / "a.fits")
    assert plan_moves(candidates, votes_on(a="true"), Rule()).there == 1


def test_a_move_that_was_killed_can_be_undone(tmp_path):
    names = [f"c{i:04d}" for i in range(3000)]
    touch(tmp_path / "d", *(f"{name}.fits" for name in names))
    folder = tmp_path / "d"
    journal = Journal(folder / "labels.csv")
    journal.append([make_vote(f"{name}.fits", "true" if i % 2 else "false") for i, name in enumerate(names)])
    code = "import sys; from otrain_train.cli_label import label; sys.exit(label())"
    with subprocess.Popen([sys.executable, "-c", code, str(folder), "--move"]) as process:
        while not (folder / "true").exists() or len(os.listdir(folder / "true")) < 50:
            time.sleep(0.001)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    candidates = find_candidates(folder)
    assert candidates.keys == [f"{name}.fits" for name in names]
    assert sum(path.startswith(("true", "false")) for path in candidates.paths) < 3000
    assert undo(candidates) >= 50
    assert tree(folder) == [*sorted(f"{name}.fits" for name in names), "labels.csv", "moves.csv"]


def test_both_names_of_a_file_between_the_steps_of_a_move_become_one(tmp_path):
    touch(tmp_path, "a.fits", "b.fits")
    candidates = find_candidates(tmp_path)
    move(candidates, plan_moves(candidates, votes_on(a="true", b="true"), Rule()))
    (tmp_path / "a.fits").hardlink_to(tmp_path / "true" / "a.fits")
    assert undo(find_candidates(tmp_path)) == 2
    assert tree(tmp_path) == ["a.fits", "b.fits", "moves.csv"]


def test_a_journal_of_moves_leads_nowhere_else(tmp_path):
    touch(tmp_path / "d", "a.fits")
    touch(tmp_path, "secret")
    (tmp_path / "d" / "moves.csv").write_text(f"time,batch,from,to\nt,b,../x,../secret\nt,b,y,{tmp_path}/secret\n")
    with pytest.raises(SourceError, match="nothing to undo"):
        undo(find_candidates(tmp_path / "d"))
    (tmp_path / "d" / "moves.csv").write_text("some,thing,else\n")
    with pytest.raises(OutputError, match="something else than a journal"):
        undo(find_candidates(tmp_path / "d"))
    assert (tmp_path / "secret").exists()


def test_about_as_many_looks_are_second_ones_as_was_asked_for():
    keys = [f"{i}" for i in range(5000)]
    looks, tally, drawn = SecondLooks(keys, 0.1, seed=3), tally_of(), 0
    assert np.mean(looks.first) == pytest.approx(0.1, abs=0.02)
    for key in keys[:3000]:
        tally.add(make_vote(key))
        for again in looks.draw(tally, "ada", 1):
            drawn += 1
            assert keys[again] in tally.of("ada")
            assert keys[again] not in tally.latest["ada"][-20:]
            tally.add(make_vote(keys[again], look="again"))
    assert drawn / (3000 + drawn) == pytest.approx(0.1, abs=0.02)
    assert SecondLooks(keys, 0.0, seed=3).draw(tally, "ada", 100) == []
    assert looks.draw(tally_of(), "bob", 100) == []
    assert len(looks.draw(tally, "ada", 1000)) == pytest.approx(110, abs=30)


def test_what_others_voted_on_is_shown_again_too():
    keys = [f"{i}" for i in range(100)]
    tally = tally_of(*(make_vote(key, labeller="bob") for key in keys))
    looks = SecondLooks(keys, 0.5, seed=0)
    assert looks.draw(tally, "ada", 50)


def test_votes_name_candidates_and_nothing_else(tmp_path):
    write_cutout(tmp_path / "a,<b>.fits", CANDID="7")
    desk = Desk(tmp_path, DeskSettings("ada"))
    ids = (f"{i:032x}" for i in itertools.count())

    def cast(**given):
        return desk.vote("=ada", [{"key": "a,<b>.fits", "vote": "true", "id": next(ids)} | given])

    for wrong in ({"key": "../x"}, {"vote": "perhaps"}, {"look": "x"}, {"id": "1"}, {"id": None}, {"scores": ["x"]}):
        answer = cast(**wrong)
        assert answer["kept"] == []
        assert len(answer["refused"]) == 1, wrong
    assert desk.vote("ada", ["nonsense"])["kept"] == []
    cast(scores=[["m", 0.25], ["n", 0.5]], look="open", place=3, order="name")
    with desk.journal.reading() as tally:
        assert tally.standing == {"a,<b>.fits": {"=ada": "true"}}
    (line,) = (tmp_path / "labels.csv").read_bytes().removeprefix(HEADER).decode().splitlines()
    assert line.partition(",")[2].startswith('\\x3dada,"a,<b>.fits",7,true,m;n,0.25;0.5,open,3,name,')
    for name in ("", " ", "a\nb", "x" * 65, "\u202eada"):
        with pytest.raises(UsageError):
            check_labeller(name)


def test_another_model_makes_another_listing_and_another_candidate_of_the_name_is_told(tmp_path):
    write_cutout(tmp_path / "n" / "a.fits", CANDID="7")
    for name in ("m", "other"):
        (tmp_path / f"{name}.onnx").write_bytes(make_matched(name))
    models = [(), (tmp_path / "m.onnx",), (tmp_path / "other.onnx",)]
    listings = [Desk(tmp_path / "n", DeskSettings("ada", models=each)).listing for each in (*models, ())]
    assert len(set(listings)) == 3
    assert listings[0] == listings[-1]
    desk = Desk(tmp_path / "n", DeskSettings("ada"))
    desk.vote("ada", [{"key": "a.fits", "vote": "true", "id": f"{1:032x}"}])
    assert "reason" not in desk.show([0], "zscale", False)[0][0]
    (tmp_path / "n" / "a.fits").unlink()
    write_cutout(tmp_path / "n" / "a.fits", CANDID="8")
    assert "on another candidate of this name, CANDID 7" in desk.show([0], "zscale", False)[0][0]["reason"]


def test_a_vote_of_an_impossible_labeller_is_refused_and_holds_up_no_other(tmp_path):
    write_cutout(tmp_path / "a.fits")
    desk = Desk(tmp_path, DeskSettings("ada"))
    answer = desk.vote("", [{"key": "a.fits", "vote": "true", "id": f"{1:032x}"}])
    assert (answer["kept"], list(answer["refused"])) == ([], [f"{1:032x}"])


def test_scores_and_maps_come_from_the_models(tmp_path):
    write_mock(tmp_path, MockSettings(5, 5, size=24, planes=("SCI", "DIFF"), edge_fraction=0))
    (tmp_path / "m.onnx").write_bytes(make_matched())
    desk = Desk(tmp_path, DeskSettings("ada", models=(tmp_path / "m.onnx",), order="uncertainty"))
    desk.scores.start()
    while desk.state("ada")["scored"] < 10:
        time.sleep(0.01)
    desk.scores.stop()
    scores = desk.scores.values[0]
    assert np.isfinite(scores).all()
    assert np.abs(scores[desk.order("uncertainty")] - 0.5).argmin() == 0
    found = desk.explain(int(scores.argmax()), "occlusion")
    assert found.shape == (24, 24)
    assert found.max() == 127
    assert np.abs(found[8:16, 8:16]).mean() > np.abs(found).mean()
    with pytest.raises(UsageError, match="no such map"):
        desk.explain(0, "grad-cam")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["{f}/none"], "cannot be read"),
        (["{f}", "--order", "uncertainty"], "give --model"),
        (["{f}", "--other-model", "x.onnx"], "--other-model is a second one"),
        (["{f}", "--labels", "{f}/a.fits"], "holds no votes"),
        (["{f}", "--labels", "{f}/a.fits/labels.csv"], "votes cannot be written"),
        (["{f}", "--model", "{f}/a.fits"], "a.fits"),
        (["{f}", "--planes", "NEW"], "planes"),
        (["{f}", "--port", "70000"], "is no port"),
        (["{f}", "--token", "a b"], "a token has"),
        (["{f}", "--labeller", ""], "a labeller's name"),
        (["{f}", "--blind-fraction", "0.9"], "blind looks"),
        (["{f}", "--host", "192.0.2.1"], "cannot listen on"),
        (["{f}", "--undo-move"], "nothing to undo"),
        (["{f}", "--move"], "cannot be read"),
        (["{f}", "--move", "--undo-move"], "opposites"),
        (["{f}", "--min-agreement", "2"], "makes no sense"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path, capsys, options, said):
    touch(tmp_path, "a.fits")
    assert label([each.format(f=tmp_path) for each in [*options, "--no-browser"]]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert said in line
    assert not (tmp_path / "moves.csv").exists()


def test_files_are_moved_by_command(tmp_path, capsys):
    touch(tmp_path, "a.fits", "b.fits")
    Journal(tmp_path / "labels.csv").append([make_vote("a.fits", "true"), make_vote("b.fits", "false", labeller="bob")])
    assert label([str(tmp_path), "--move", "--weights", "bob=0,bbo=2"]) == 0
    said = capsys.readouterr()
    assert (
        "1 candidates moved: 1 to true/, 0 to false/, 0 already there; 1 with too few votes for true or false stay"
        in said.out
    )
    assert "weights are given for bbo, without a vote; who has voted: ada, bob" in said.err
    assert tree(tmp_path) == ["b.fits", "labels.csv", "moves.csv", "true/a.fits"]
    assert label([str(tmp_path), "--undo-move"]) == 0
    assert tree(tmp_path) == ["a.fits", "b.fits", "labels.csv", "moves.csv"]
