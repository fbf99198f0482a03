import codecs
import csv
import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from astropy.table import Table
from cutout_files import draw, write_cutout
from networks import full_card, make_card, make_model

from otrain_infer import Scorer, read_cutouts
from otrain_infer.cli import infer, model
from otrain_infer.command import Parser, run


def scores_of(path, table_format="ascii.commented_header"):
    return Table.read(path, format=table_format)


def test_a_folder_is_scored(folder, tiny_path, scorer, capsys):
    assert infer(["--cutouts", str(folder), "--model", str(tiny_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(folder / "infer_results.dat")
    table = scores_of(folder / "infer_results.dat")
    assert table["filename"].tolist() == sorted(str(path) for path in folder.glob("*.fits"))
    expected = scorer.score(read_cutouts(folder, card=scorer.card))
    np.testing.assert_allclose(table["label1"], expected, rtol=1e-7)
    assert set(table["model"]) == {scorer.identity}


def test_files_globs_and_a_datacube_give_the_same(folder, tiny_path, tmp_path):
    outputs = [tmp_path / f"{n}.csv" for n in range(4)]
    paths = sorted(map(str, folder.glob("*.fits")))
    cube = np.stack([draw(seed) for seed in range(10)])[..., np.newaxis]
    np.savez(tmp_path / "cube.npz", cube=cube, labels=np.zeros(10))
    (tmp_path / "list.txt").write_text("\n".join(paths) + "\n\n")
    ways = (paths, [str(folder / "c*.fits")], [str(tmp_path / "cube.npz")], [f"@{tmp_path / 'list.txt'}"])
    for named, output in zip(ways, outputs, strict=True):
        assert infer(["--cutouts", *named, "--model", str(tiny_path), "--output", str(output)]) == 0
    tables = [scores_of(output, "ascii.csv") for output in outputs]
    assert all(table["label1"].tolist() == tables[0]["label1"].tolist() for table in tables)


def test_underscores_and_dashes_are_alike(folder, tiny_path, tmp_path):
    for option in ("--prob-ratio", "--prob_ratio"):
        assert (
            infer(
                [
                    "--cutouts",
                    str(folder),
                    "--model",
                    str(tiny_path),
                    option,
                    "0.1",
                    "--output",
                    str(tmp_path / "a.csv"),
                ]
            )
            == 0
        )
    assert (
        infer(
            ["--cutouts", str(folder), "--model", str(tiny_path), "--prob_ratio=1", "--output", str(tmp_path / "b.csv")]
        )
        == 0
    )
    corrected, plain = (scores_of(tmp_path / name, "ascii.csv")["label1"] for name in ("a.csv", "b.csv"))
    np.testing.assert_allclose(corrected, plain / (plain + (1 - plain) / 0.1), rtol=1e-5)


def test_edge_skip_gives_no_score(folder, tiny_path, tmp_path):
    write_cutout(folder / "edge.fits", 30, EDGE="True")
    for choice, missing in (("score", 0), ("skip", 1)):
        infer(
            [
                "--cutouts",
                str(folder),
                "--model",
                str(tiny_path),
                "--edge",
                choice,
                "--output",
                str(tmp_path / "t.fits"),
            ]
        )
        table = Table.read(tmp_path / "t.fits")
        assert np.isnan(np.ma.filled(table["label1"], np.nan)).sum() == missing
        assert len(table) == 11


def test_the_embedded_model_announces_itself(folder, capsys):
    assert infer(["--cutouts", str(folder)]) == 0
    assert "no --model was given" in capsys.readouterr().err


def test_unusable_rows_are_data(folder, tiny_path, capsys):
    (folder / "c4.fits").write_text("")
    assert infer(["--cutouts", str(folder), "--model", str(tiny_path)]) == 0
    said = capsys.readouterr().err
    assert "9 of 10 cutouts scored" in said
    assert "UNREADABLE: 1" in said
    assert len(scores_of(folder / "infer_results.dat")) == 10


def test_of_many_unusable_rows_a_few_are_told_and_all_with_verbose(folder, tiny_path, capsys):
    for number in range(7):
        (folder / f"bad{number}.fits").write_bytes(b"rubbish")
    assert infer(["--cutouts", str(folder), "--model", str(tiny_path)]) == 0
    told = capsys.readouterr().err
    assert told.count("not a FITS file") == 5
    assert "and 2 more without a score, which -v tells of one by one" in told
    assert infer(["--cutouts", str(folder), "--model", str(tiny_path), "-v"]) == 0
    assert capsys.readouterr().err.count("not a FITS file") == 7 + 5


def test_a_folder_without_cutouts_is_passed_over_where_there_are_others(folder, tiny_path, tmp_path, capsys):
    for name in ("n1", "n2", "n3"):
        (tmp_path / "nights" / name).mkdir(parents=True)
        if name != "n2":
            write_cutout(tmp_path / "nights" / name / "a.fits", 1)
    output = ["--model", str(tiny_path), "--output", str(tmp_path / "o.csv")]
    for named in ([str(tmp_path / "nights" / "*")], sorted(map(str, (tmp_path / "nights").iterdir()))):
        assert infer(["--cutouts", *named, *output]) == 0
        told = capsys.readouterr().err
        assert "2 of 2 cutouts scored" in told
        assert "n2' (there is no alert packet either): passed over" in told
    assert infer(["--cutouts", str(tmp_path / "nights" / "n1"), str(tmp_path / "none*"), *output]) == 0
    assert "none*' matches no file: passed over" in capsys.readouterr().err
    assert infer(["--cutouts", str(tmp_path / "nights" / "n2*"), *output]) == 2
    assert "there is no cutout" in capsys.readouterr().err


def test_packets_beside_cutouts_are_told_of_and_a_table_is_not(folder, tiny_path, tmp_path, capsys):
    output = ["--model", str(tiny_path), "--output", str(tmp_path / "o.csv")]
    (folder / "scores.parquet").write_bytes(b"")
    assert infer(["--cutouts", str(folder), *output]) == 0
    assert "passed over" not in capsys.readouterr().err
    (folder / "a.avro").write_bytes(b"")
    assert infer(["--cutouts", str(folder), *output]) == 0
    assert f"1 alert packets in the folder '{folder}' are passed over" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["", "a.fits", "cube.npz"])
def test_what_is_for_packets_is_not_for_cutouts(folder, tiny_path, tmp_path, capsys, named):
    write_cutout(folder / "a.fits", 1)
    np.savez(folder / "cube.npz", cube=np.zeros((1, 32, 32, 1)), labels=np.zeros(1))
    told = ["--model", str(tiny_path), "--schema", str(tmp_path)]
    assert infer(["--cutouts", str(folder / named), *told]) == 2
    assert "--mapping and --schema are for alert packets, and" in capsys.readouterr().err


def test_exit_1_when_nothing_could_be_scored(tmp_path, tiny_path):
    (tmp_path / "a.fits").write_text("")
    assert infer(["--cutouts", str(tmp_path), "--model", str(tiny_path)]) == 1
    assert len(scores_of(tmp_path / "infer_results.dat")) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cutouts", "nowhere.fits"], "there is no file 'nowhere.fits'"),
        (["--cutouts", ""], "there is no folder or file ''"),
        (["--cutouts", "{folder}/c1.fits", "--output", "{folder}/c1.fits"], "is one of the cutouts"),
        (["--cutouts", "{folder}", "--output", "{folder}/c1.fits"], "is one of the cutouts"),
        (["--cutouts", "{folder}", "--output", "{folder}/" + 300 * "a" + ".csv"], "cannot be written"),
        (["--cutouts", "nowhere"], "there is no folder or file 'nowhere'"),
        (["--cutouts", "{folder}", "cube.npz"], "there is no folder or file 'cube.npz'"),
        (["--cutouts", "{empty}"], "no cutout"),
        (["--cutouts", "@nowhere.txt"], "the list of cutouts 'nowhere.txt' cannot be read"),
        (["--cutouts", "@{empty}/../empty.txt"], "is empty"),
        (["--cutouts", "{folder}", "--model", "none.onnx"], "cannot be read"),
        (["--cutouts", "{folder}", "--output", "a.xlsx"], "does not end in"),
        (["--cutouts", "{folder}", "--device", "cuda"], "cannot be had"),
        (["--cutouts", "{folder}", "--device", "gpu"], "unknown"),
        (["--cutouts", "{folder}", "--threads", "0"], "give 1 or more"),
        (["--cutouts", "{folder}", "--batch-size", "-3"], "give 1 or more"),
    ],
)
def test_one_line_for_what_is_wrong(folder, tmp_path, tiny_path, options, said, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    options = [each.format(folder=folder, empty=tmp_path / "empty") for each in options]
    if "--model" not in options:
        options += ["--model", str(tiny_path)]
    code = infer(options)
    lines = capsys.readouterr().err.splitlines()
    assert code == 2
    assert any(said in line for line in lines)
    assert not any("Traceback" in line for line in lines)
    assert len([line for line in lines if "model tiny" not in line]) == 1
    assert len(list(folder.iterdir())) == 10


@pytest.mark.parametrize(
    "options", [["--prob-ratio", "0"], ["--prob-ratio", "x"], ["--threshold", "2"], ["--edge", "maybe"], []]
)
def test_wrong_usage_is_exit_2(options, capsys):
    with pytest.raises(SystemExit) as caught:
        infer(["--cutouts", "x", *options] if options else [])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_verbose_shows_the_traceback(capsys):
    assert infer(["--cutouts", "x", "--model", "none.onnx", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_found_out_before_scoring(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert infer(["--cutouts", str(folder), "--output", str(tmp_path / "file" / "a.csv")]) == 2
    assert "nothing can be written in" in capsys.readouterr().err


def test_show_verify_doctor(tmp_path, capsys):
    scorer = Scorer(make_model(full_card()))
    golden = scorer.card.golden
    path = tmp_path / "m.onnx"
    good = type(golden)(golden.pixels, scorer.score_pixels(golden.pixels))
    path.write_bytes(make_model(make_card(golden=good, normalisation=scorer.card.normalisation)))
    assert model(["verify", str(path)]) == 0
    assert "passed" in capsys.readouterr().out
    shifted = type(golden)(golden.pixels, np.abs(good.scores - np.float32(2e-4)))
    path.write_bytes(make_model(make_card(golden=shifted, normalisation=scorer.card.normalisation)))
    assert model(["verify", str(path)]) == 1
    assert "largest difference 0.0002" in capsys.readouterr().out
    path.write_bytes(make_model(full_card()))
    assert model(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("For tests.", "64 x 64", "robust", "corner", "fpr-1%", "temperature  1.5", "auc", "seed"):
        assert part in shown
    path.write_bytes(make_model(make_card()))
    assert model(["verify", str(path)]) == 2
    assert "no golden cutouts" in capsys.readouterr().err


def test_doctor_tells_the_truth(capsys):
    assert model(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in (
        "numpy",
        "device cpu   usable",
        "processors",
        "first score",
        "kernels of otrain_infer.fits_kernels: /",
    ):
        assert part in printed
    assert "failed" not in printed


HEAVY = ("numpy", "numba", "astropy", "onnxruntime", "tensorflow", "keras", "pandas")


@pytest.mark.parametrize("code", ["from otrain_infer.cli import infer; infer(['--help'])", "import otrain_infer"])
def test_help_and_import_load_nothing_heavy(code):
    script = f"import sys, atexit; atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules])); {code}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_scoring_never_imports_training_or_tensorflow(folder):
    # Numba itself looks for SciPy, so that one is left to the rules of direction.
    forbidden = ("tensorflow", "keras", "tf2onnx", "onnx", "sklearn", "matplotlib", "pandas", "otrain_train")
    script = (
        "import sys; from otrain_infer.cli import infer; code = infer(['--cutouts', sys.argv[1]]); "
        f"print(code, [m for m in {forbidden} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_does_not_grow_with_the_files(tmp_path, tiny_path):
    script = (
        "import sys; from pathlib import Path; from otrain_infer.cli import infer; code = infer(sys.argv[1:]); "
        "print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0], file=sys.stderr)"
    )
    peaks = []
    for count in (1_000, 30_000):
        folder = tmp_path / f"{count} files, of which the names are of some length as well"
        folder.mkdir()
        first = write_cutout(folder / "00000.fits", 1)
        for n in range(1, count):
            os.link(first, folder / f"{n:05}.fits")
        command = [sys.executable, "-c", script, "--cutouts", folder, "--model", tiny_path, "--threads", "1"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stderr.splitlines()[-1]))  # KiB
    # The list of paths, and no rows: these took 35 MB when all were kept.
    assert peaks[1] - peaks[0] < 15_000


def run_in_background(folder, tiny_path):
    code = "import sys; from otrain_infer.cli import infer; sys.exit(infer(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "--cutouts", str(folder), "--model", str(tiny_path), "--threads", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_ended_half_way_nothing_half_is_left(tmp_path, tiny_path, end):
    folder = tmp_path / "many"
    folder.mkdir()
    first = write_cutout(folder / "00000.fits", 1)
    for n in range(1, 20_000):
        os.link(first, folder / f"{n:05}.fits")
    running = run_in_background(folder, tiny_path)
    running.stderr.readline()  # the model is loaded and scoring begins
    time.sleep(0.3)
    running.send_signal(end)
    _, said = running.communicate(timeout=30)
    assert running.returncode == (-9 if end == signal.SIGKILL else 130)
    assert "Traceback" not in said
    left = [name for name in os.listdir(folder) if not name[0].isdigit()]
    if end == signal.SIGKILL:
        left = [name for name in left if not name.startswith(".infer_results.")]  # which the next run removes
    assert not left
    again = run_in_background(folder, tiny_path)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert len((folder / "infer_results.dat").read_text().splitlines()) == 20_001
    assert [name for name in os.listdir(folder) if not name[0].isdigit()] == ["infer_results.dat"]


def test_the_table_goes_where_the_cutouts_are_or_here_if_they_are_in_several_places(
    folder, tiny_path, tmp_path, monkeypatch
):
    other = tmp_path / "other.fits"
    other.mkdir()
    write_cutout(other / "x.fits", 50)
    monkeypatch.chdir(tmp_path)
    assert infer(["--cutouts", str(tmp_path / "cut*" / "c*.fits"), "--model", str(tiny_path)]) == 0
    assert len(scores_of(folder / "infer_results.dat")) == 10
    assert infer(["--cutouts", str(folder), str(other), "--model", str(tiny_path)]) == 0
    assert len(scores_of(tmp_path / "infer_results.dat")) == 11


def test_nothing_is_replaced_when_nothing_was_there(folder, tiny_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "infer_results.dat").write_text("of yesterday")
    assert infer(["--cutouts", "gone.fits", "--model", str(tiny_path)]) == 2
    assert (tmp_path / "infer_results.dat").read_text() == "of yesterday"


@pytest.mark.skipif(os.name != "posix", reason="shells are POSIX")
@pytest.mark.parametrize(
    ("redirection", "code"), [("2>&-", 0), (">&-", 0), ("| true; exit ${PIPESTATUS[0]}", 0), (">/dev/full", 2)]
)
def test_closed_and_full_streams(folder, tiny_path, redirection, code):
    program = "import sys; from otrain_infer.cli import infer; sys.exit(infer(sys.argv[1:]))"
    command = f'"{sys.executable}" -c "{program}" --cutouts "{folder}" --model "{tiny_path}" {redirection}'
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert len(scores_of(folder / "infer_results.dat")) == 10


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_help_that_cannot_be_written():
    command = [sys.executable, "-c", "import sys; from otrain_infer.cli import infer; sys.exit(infer(['--help']))"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr == "otrain-infer: stdout cannot be written (No space left on device)\n"


def test_names_that_the_terminal_cannot_show(tmp_path, tiny_path):
    folder = os.fsencode(tmp_path) + b"/nu\xff"
    os.mkdir(folder)
    write_cutout(tmp_path / "a.fits", 1)
    os.rename(os.fsencode(tmp_path / "a.fits"), folder + b"/a.fits")
    program = "import sys; from otrain_infer.cli import infer; sys.exit(infer(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--cutouts", folder, "--model", tiny_path],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_list_ends_its_lines_with_line_ends_alone(tiny_path, tmp_path):
    names = ["a\u2028b.fits", "c\x85d.fits", "e\x0cf.fits", os.fsdecode(b"\xff.fits")]
    paths = [os.fsencode(write_cutout(tmp_path / name, seed)) for seed, name in enumerate(names)]
    (tmp_path / "list.txt").write_bytes(codecs.BOM_UTF8 + b"\r\n".join(paths) + b"\n\n")
    output = tmp_path / "o.csv"
    assert infer(["--cutouts", f"@{tmp_path / 'list.txt'}", "--model", str(tiny_path), "--output", str(output)]) == 0
    with output.open(newline="") as file:
        assert [bool(row["label1"]) for row in csv.DictReader(file)] == [True] * 4


@pytest.mark.timeout(10)
def test_an_interrupt_within_what_a_library_calls_back_is_not_lost(capsys):
    def interrupted():
        raise KeyboardInterrupt

    def command(_):
        ctypes.CFUNCTYPE(None)(interrupted)()
        while True:
            time.sleep(0.01)

    before = sys.unraisablehook
    assert run(Parser(prog="otrain-try"), command, []) == 130
    assert capsys.readouterr().err == "otrain-try: interrupted\n"
    assert sys.unraisablehook is before


def test_every_line_of_a_list_is_a_row(folder, tiny_path, tmp_path):
    lines = [str(folder / "c1.fits"), str(folder), "gone[1].fits", "*.fits", "no such thing", str(folder / "c2.fits")]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    output = tmp_path / "t.ecsv"
    assert infer(["--cutouts", f"@{tmp_path / 'list.txt'}", "--model", str(tiny_path), "--output", str(output)]) == 0
    table = Table.read(output)
    assert table["filename"].tolist() == lines
    assert table["flags"].tolist() == [0, 1, 1, 1, 1, 0]
