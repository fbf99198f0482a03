"""otrain_train.votes and otrain_train.verdicts: the journal, what stands, majorities and agreement."""

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.verdicts import Rule, agreements, cohen_kappa, judge
from otrain_train.votes import COLUMNS, HEADER, Journal, Tally, Vote, escape, read_votes, unescape

counter = itertools.count()


def make_vote(candidate="a.fits", choice="true", labeller="ada", look="open", **others):
    known = dict.fromkeys(COLUMNS, "") | {"time": "2026-01-01T00:00:00+00:00", "id": f"{next(counter):032x}"}
    return Vote(**known | {"candidate": candidate, "vote": choice, "labeller": labeller, "look": look} | others)


def tally_of(*votes):
    tally = Tally()
    for vote in votes:
        tally.add(vote)
    return tally


def standing(journal):
    with journal.reading() as tally:
        return tally.standing


@given(st.text())
def test_any_text_is_one_line_that_begins_no_formula_and_is_read_back(text):
    written = escape(text)
    assert unescape(written) == text
    assert written.isprintable()
    assert written[:1] not in ("=", "+", "-", "@") or not written


@given(st.text(min_size=1), st.text(min_size=1), st.text())
def test_a_vote_is_one_line_and_read_back_as_it_was(labeller, candidate, candid):
    vote = make_vote(candidate, labeller=labeller, candid=candid)
    line = vote.to_line()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    tally = Tally()
    from otrain_train.votes import count_lines

    count_lines(tally, line)
    assert tally.standing == {candidate: {labeller: "true"}}
    assert tally.candids.get(candidate, "") == candid


def test_votes_are_on_the_disk_when_append_returns_and_doubled_ones_are_not_written_again(tmp_path):
    journal, vote = Journal(tmp_path / "labels.csv"), make_vote()
    assert journal.append([vote, vote]) == [vote.id, vote.id]
    assert journal.append([vote]) == [vote.id]
    lines = (tmp_path / "labels.csv").read_bytes().splitlines(keepends=True)
    assert lines == [HEADER, vote.to_line()]
    other = Journal(tmp_path / "labels.csv")
    with other.reading() as tally:
        assert vote.id in tally
    assert other.append([vote]) == [vote.id]
    assert len((tmp_path / "labels.csv").read_bytes().splitlines()) == 2


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_line_that_was_cut_short_eats_no_other(tmp_path, cut):
    path, first, second = tmp_path / "labels.csv", make_vote("a"), make_vote("b", "false")
    Journal(path).append([first, second])
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    third = make_vote("c")
    journal = Journal(path)
    assert journal.append([second, third]) == [second.id, third.id]  # as a page does that had no answer
    assert standing(journal) == {"a": {"ada": "true"}, "b": {"ada": "false"}, "c": {"ada": "true"}}
    assert read_votes(path).standing == standing(journal)


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(b",true,", b",none,"),  # as long as before
        lambda text: text.replace(b",true,", b",false,"),
        lambda text: text[: len(HEADER)] + text[text.index(b"\n", len(HEADER)) + 1 :],
        lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),  # as a spreadsheet saves it
        lambda text: text.replace(b"\n", b"\r\n").replace(b",true,", b",TRUE,"),
        lambda text: None,
    ],
)
@pytest.mark.parametrize("anew", [False, True])
def test_what_is_changed_by_hand_counts_at_once(tmp_path, edit, anew):
    path = tmp_path / "labels.csv"
    journal = Journal(path)
    journal.append([make_vote("a"), make_vote("b"), make_vote("c")])
    before, state = standing(journal), journal.state
    journal.append([make_vote("d", "false")])
    assert journal.state == state
    content = edit(path.read_bytes())
    if content is None or anew:
        path.unlink()
    if content is not None:
        time.sleep(0.01)
        path.write_bytes(content)
        assert standing(journal) == read_votes(path).standing
    else:
        assert standing(journal) == {}
    assert journal.state != state
    journal.append([make_vote("e")])
    assert standing(journal) == read_votes(path).standing
    assert "e" in standing(journal)
    assert before is not standing(journal)


@pytest.mark.parametrize("length", [0, 1, len(HEADER) - 1])
def test_a_first_line_that_was_cut_short_is_written_again(tmp_path, length):
    (tmp_path / "labels.csv").write_bytes(HEADER[:length])
    Journal(tmp_path / "labels.csv").append([make_vote()])
    assert read_votes(tmp_path / "labels.csv").votes == 1


def test_what_is_no_journal_is_left_alone(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("name,class\na,b\n")
    with pytest.raises(SourceError, match="holds no votes of otrain-label"):
        Journal(path)
    with pytest.raises(SourceError, match="its first line is not time,labeller"):
        read_votes(path)
    assert path.read_text() == "name,class\na,b\n"
    with pytest.raises(SourceError, match="cannot be read"):
        read_votes(tmp_path / "none.csv")


def test_where_votes_cannot_be_written_it_is_said_before_there_are_any(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="votes cannot be written to"):
        Journal(tmp_path / "file" / "labels.csv")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_vote_that_finds_the_disk_full_does_not_count(tmp_path):
    # A limit of the size of files stands for the full disk: what fits is written, what does not raises.
    code = f"""
import resource, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from otrain_train.votes import *
from test_votes import make_vote
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal({os.fspath(tmp_path / "labels.csv")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (300, resource.RLIM_INFINITY))
kept = 0
try:
    for i in range(9):
        journal.append([make_vote(f"c{{i}}")])
        kept += 1
except Exception as error:
    with journal.reading() as tally:
        print(kept, type(error).__name__, tally.votes, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append([make_vote("later")])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said[1] == "OutputError"
    assert 0 < int(said[0]) == int(said[2])
    tally = read_votes(tmp_path / "labels.csv")
    assert (tally.votes, tally.damaged) == (int(said[0]) + 1, [])


def test_several_processes_and_threads_append_at_once_and_one_is_killed(tmp_path):
    path = tmp_path / "labels.csv"
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from otrain_train.votes import *
from test_votes import make_vote
import secrets
journal = Journal({os.fspath(path)!r})
while True:
    vote = make_vote(labeller=sys.argv[1], id=secrets.token_hex(16))
    journal.append([vote])
    print(vote.id, flush=True)
"""
    others = [subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True) for name in "bc"]
    for other in others:
        other.stdout.readline()
    journal, ours = Journal(path), [make_vote(f"{i}") for i in range(120)]
    threads = [
        threading.Thread(target=lambda part: [journal.append([vote]) for vote in part], args=(ours[k::4],))
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    for other in others:
        other.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()
    promised = {line.strip() for other in others for line in other.stdout.read().splitlines() if len(line) == 32}
    for other in others:
        other.wait()
        other.stdout.close()
    tally = read_votes(path)
    assert all(vote.id in tally for vote in ours)
    assert all(vote_id in tally for vote_id in promised)
    with journal.reading() as counted:
        assert tally.votes == counted.votes


def test_the_last_vote_stands_and_none_takes_it_back():
    tally = tally_of(make_vote("a", "true"), make_vote("a", "false"), make_vote("a", "unsure", labeller="bob"))
    assert tally.standing["a"] == {"ada": "false", "bob": "unsure"}
    tally.add(make_vote("a", "none"))
    assert tally.standing["a"] == {"bob": "unsure"}
    assert tally.labellers == ["ada", "bob"]


def test_a_second_look_is_kept_beside_and_can_be_corrected_and_taken_back():
    tally = tally_of(make_vote("a", "true"), make_vote("a", "false", look="again"))
    assert tally.of("ada") == {"a": "true"}
    (found,) = agreements(tally)
    assert (found.one, found.other, found.n, found.same) == ("ada", "ada", 1, 0)
    tally.add(make_vote("a", "true", look="again"))
    assert agreements(tally)[0].same == 1
    tally.add(make_vote("a", "false"))  # what was thought at the time of the second look counts
    assert agreements(tally)[0].same == 1
    tally.add(make_vote("a", "none", look="again"))
    assert agreements(tally) == []
    assert tally.of("ada") == {"a": "false"}


def test_a_blind_first_look_is_a_vote_like_any_other():
    tally = tally_of(make_vote("a", "true", look="blind"), make_vote("a", "false", look="blind"))
    assert tally.of("ada") == {"a": "false"}
    assert agreements(tally) == []


@given(st.lists(st.tuples(*[st.sampled_from(["true", "false", "unsure"])] * 2), min_size=1, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs):
    ours, one, other = cohen_kappa(pairs), *zip(*pairs, strict=True)
    if len({*one, *other}) == 1:
        assert math.isnan(ours)
        return
    assert ours == pytest.approx(cohen_kappa_score(one, other), abs=1e-12)


def test_pairs_of_labellers_are_compared_on_what_both_voted_on():
    rng = np.random.default_rng(1)
    words = ("true", "false", "unsure")
    votes = {name: {f"{i}": words[rng.integers(3)] for i in rng.permutation(60)[:40]} for name in ("ada", "bob", "eve")}
    tally = tally_of(*(make_vote(key, vote, labeller=name) for name, own in votes.items() for key, vote in own.items()))
    found = {(each.one, each.other): each for each in agreements(tally)}
    assert set(found) == {("ada", "bob"), ("ada", "eve"), ("bob", "eve")}
    for (one, other), each in found.items():
        both = sorted(set(votes[one]) & set(votes[other]))
        expected = cohen_kappa_score([votes[one][key] for key in both], [votes[other][key] for key in both])
        assert each.kappa == pytest.approx(expected)
        assert each.n == len(both)


@pytest.mark.parametrize(
    ("votes", "rule", "expected"),
    [
        ("t", Rule(), ("true", 1.0, "")),
        ("f", Rule(), ("false", 1.0, "")),
        ("u", Rule(), ("", 0.0, "few")),
        ("", Rule(), ("", 0.0, "few")),
        ("tf", Rule(), ("", 0.5, "tie")),
        ("tu", Rule(), ("true", 0.5, "")),
        ("tu", Rule(min_agreement=0.6), ("", 0.5, "agreement")),
        ("ttf", Rule(min_agreement=2 / 3), ("true", 2 / 3, "")),
        ("t", Rule(min_votes=2), ("", 1.0, "few")),
        ("tf", Rule(weights={"0": 2}), ("true", 2 / 3, "")),
        ("tff", Rule(weights={"0": 2}), ("", 0.5, "tie")),
        ("tf", Rule(weights={"0": 0}), ("false", 1.0, "")),
        ("t", Rule(weights={"0": 0}), ("", 0.0, "few")),
        ("tf", Rule(weights={"0": 0.1 + 0.2, "1": 0.3}), ("", 0.5, "tie")),
    ],
)
def test_majorities(votes, rule, expected):
    words = {"t": "true", "f": "false", "u": "unsure"}
    found = judge({f"{i}": words[vote] for i, vote in enumerate(votes)}, rule)
    assert (found.label, pytest.approx(found.agreement), found.why) == expected


@pytest.mark.parametrize("settings", [{"min_votes": 0}, {"min_agreement": 1.1}, {"weights": {"a": -1.0}}])
def test_rules_that_make_no_sense(settings):
    with pytest.raises(UsageError):
        Rule(**settings)


def test_lines_that_are_no_votes_are_counted_and_left_out(tmp_path, caplog):
    path = tmp_path / "labels.csv"
    good = make_vote()
    bad = [replace(good, vote="maybe", id="1" * 32), replace(good, look="x", id="2" * 32), replace(good, id="3" * 31)]
    lines = [good.to_line(), *(each.to_line() for each in bad), b"a,b\n", b"\xff\x00\n", b'"\n']
    # As a spreadsheet would write it.
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + b"".join(lines)).replace(b"\n", b"\r\n"))
    tally = read_votes(path)
    assert (tally.votes, tally.damaged) == (1, [3, 4, 5, 6, 7, 8])
    assert "6 line(s) are no votes and are left out, the first is line 3" in caplog.text
