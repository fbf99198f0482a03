"""Options of the training commands from a YAML file."""

import contextlib
import io
import subprocess
import sys

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otrain_infer.command import number
from otrain_train import cli, cli_evaluate, cli_export
from otrain_train.config import ConfigParser, plane_names
from otrain_train.settings import AUGMENTATIONS, NETWORKS

COMMANDS = {
    "otrain-convert": (cli.convert, ["--cutouts", "a b", "--cube", "é", "--planes", "sci, Ref", "--frac-true", "all"]),
    "otrain-train": (cli.train, ["--cube", "c.npz", "--model-path", ".", "--model-name", "007", "--seed", "1", "2"]),
    "otrain-export": (cli_export.export, ["a.keras", "--output", "b.onnx", "--size", "63", "61"]),
    "otrain-mock": (cli.mock, ["--output", "null", "--seed", "3"]),
    "otrain-diagnostics": (
        cli_evaluate.diagnostics,
        ["--path-cube-validation", "~", "--model-path", "m: n.onnx", "--threshold", "1e-3", "--report"],
    ),
    "otrain-plot-results": (cli_evaluate.plot_results, ["--path-cube-validation", "#c", "--model-path", "m"]),
    "otrain-checkinfer": (
        cli_evaluate.checkinfer,
        ["--crossmatch", "x", "--infer", "y", "--maglim", "-5", "-.5", "18.25", "--fwhm-ratio-upper", "inf"],
    ),
    "otrain-optimise-dataset-size": (
        cli.optimise_dataset_size,
        ["--cube", "c", "--model-path", "m", "--model-name", "yes", "--xla", "--learning-rate", "1e-5"],
    ),
    "otrain-grad-cam": (cli_evaluate.grad_cam, ["--cube", "c", "--model-path", "'m\"", "--n-random", "0"]),
}
REQUIRED = ["--cube", "c.npz", "--model-path", "here", "--model-name", "m"]


def show(command, *argv):
    """What a command prints with --print-config."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        command([*argv, "--print-config"])
    assert not ended.value.code
    return out.getvalue()


@pytest.fixture
def file(tmp_path):
    """A function that writes a file of options and gives its path."""

    def write(content, name="mine.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture
def parser():
    """A parser of every kind of option."""
    parser = ConfigParser(prog="otrain-try")
    option = parser.add_argument
    option("model", nargs="?")
    option("--epochs", type=int, default=10)
    option("--learning-rate", type=float)
    option("--planes", type=plane_names, default="DIFF")
    option("--maglim", type=number, nargs="+", default=[12.0])
    option("--note", default="")
    option("--path", "--path-datacube", default=".")
    option("--report", action="store_true")
    option("--network", choices=NETWORKS, default="lite")
    return parser


def refused(run, argv, capsys):
    """The one line with which a command ends on wrong usage."""
    with pytest.raises(SystemExit) as ended:
        run(argv)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_command_line_counts_more_than_the_file_and_the_file_more_than_the_default(parser, file):
    path = file("epochs: 3\nnote: of the file\nmaglim: [1, 2, 3]\n")
    parsed = parser.parse_args(["--epochs", "4", "--config", path, "--maglim", "9"])
    assert (parsed.epochs, parsed.note, parsed.maglim, parsed.path) == (4, "of the file", [9.0], ".")


def test_dashes_and_underscores_are_the_same_in_keys(parser, file):
    for key in ("learning_rate", "learning-rate"):
        assert parser.parse_args([f"--config={file(f'{key}: 1e-3')}"]).learning_rate == 0.001
    for key in ("path", "path_datacube", "path-datacube"):
        assert parser.parse_args(["--config", file(f"{key}: there")]).path == "there"


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate: 1e-3", "learning_rate", 0.001),
        ("learning_rate: 1", "learning_rate", 1.0),
        ("learning_rate: null", "learning_rate", None),
        ("epochs:", "epochs", 10),
        ("epochs: ~", "epochs", 10),
        ("epochs: 3  # three", "epochs", 3),
        ("note: 'null'", "note", "null"),
        ("note: ''", "note", ""),
        ("note: no", "note", "no"),
        ("note: 007", "note", "007"),
        ("note: 2026-01-01", "note", "2026-01-01"),
        ("note: -v", "note", "-v"),
        ("note: --epochs 3", "note", "--epochs 3"),
        ("note: |\n  two\n  lines", "note", "two\nlines"),
        ("note: !!python/object/apply:os.system ls", "note", "ls"),
        ("planes: [sci, REF]", "planes", ("SCI", "REF")),
        ("planes: SCI,REF", "planes", ("SCI", "REF")),
        ("maglim: 3", "maglim", [3.0]),
        ("maglim: [-5, -.5, 1e3]", "maglim", [-5.0, -0.5, 1000.0]),
        ("report: true", "report", True),
        ("report: False", "report", False),
        ("report: yes", "report", True),
        ("report: off", "report", False),
        ("model: a.keras", "model", "a.keras"),
    ],
)
def test_values_are_read_as_the_command_line_reads_them(line, name, value, parser, file):
    assert getattr(parser.parse_args(["--config", file(line)]), name) == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epohcs: 3", "it says 'epohcs', and otrain-try has no such option: did you mean 'epochs'?"),
        ("zzz: 3", "it says 'zzz', and otrain-try has no such option (see"),
        ("config: other.yaml", "no such option"),
        ("<<: {epochs: 3}", "no such option"),
        ("epochs: 3\nepochs: 4", "it says 'epochs' twice"),
        ("learning-rate: 3\nlearning_rate: 4", "'learning-rate' and 'learning_rate', which are the same option"),
        ("path: a\npath-datacube: b", "'path' and 'path-datacube', which are the same option"),
        ("epochs: three", "argument --epochs: invalid int value: 'three'"),
        ("epochs: [1, 2]", "'epochs' takes one value, not a list"),
        ("network: braai", "argument --network: invalid choice: 'braai'"),
        ("report: 1", "'report' is true or false, not '1'"),
        ("report: [true]", "'report' is true or false"),
        ("maglim: [1, null]", "'maglim' is neither a value nor a list of values"),
        ("maglim: {a: 1}", "'maglim' is neither a value nor a list of values"),
        ("maglim: []", "argument --maglim: expected at least one argument"),
        ("maglim: [--report]", "'maglim' begins with a dash where it says '--report'"),
        ("model: --report", "'model' begins with a dash"),
        ("- epochs\n- 3", "it does not hold lines of the form 'option: value'"),
        ("epochs", "it does not hold lines of the form 'option: value'"),
        ("epochs: 3\nnote: a: b", "it is not YAML (mapping values are not allowed here in line 2)"),
        ("a: 1\n---\nb: 2", "it is not YAML"),
        ("? [a]\n: 3", "it is not YAML"),
        ("note: &x [*x]", "it is not YAML"),
        ("- " * 5000, "its lists are too deep"),
        (b"note: \xe9t\xe9", "it is not a text in UTF-8"),
        (b"note: \0", "it is not a text in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_one_line_with_its_name(content, words, parser, file, capsys):
    line = refused(parser.parse_args, ["--config", file(content)], capsys)
    assert line.startswith("otrain-try: the file '")
    assert "mine.yaml' cannot be used: " in line
    assert words in line


def test_a_path_that_is_no_file_is_told_in_one_line(parser, tmp_path, capsys):
    assert "No such file" in refused(parser.parse_args, ["--config", str(tmp_path / "no.yaml")], capsys)
    assert "Is a directory" in refused(parser.parse_args, ["--config", str(tmp_path)], capsys)
    assert "expected one argument" in refused(parser.parse_args, ["--config"], capsys)


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "{}", "epochs:\n"])
def test_a_file_may_say_nothing(content, parser, file):
    assert vars(parser.parse_args(["--config", file(content)])) | {"config": []} == vars(parser.parse_args([]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_editors_write_several_encodings(encoding, parser, file):
    assert parser.parse_args(["--config", file("note: été\r\nepochs: 3\r\n".encode(encoding))]).note == "été"


def test_a_second_file_counts_more_than_the_first(parser, file):
    first, second = file("epochs: 3\nnote: a\nmodel: x", "1.yaml"), file("epochs: 4\nmodel: y\nnote: null", "2.yaml")
    parsed = parser.parse_args(["--config", first, f"--config={second}"])
    assert (parsed.epochs, parsed.note, parsed.model) == (4, "a", "y")


def test_what_has_no_option_may_stand_in_the_file_or_on_the_command_line(parser, file):
    path = file("maglim: [1, 2]\nmodel: of the file")
    assert parser.parse_args(["--config", path]).model == "of the file"
    for argv in (["mine", "--config", path], ["--config", path, "mine"]):
        parsed = parser.parse_args(argv)
        assert (parsed.model, parsed.maglim) == ("mine", [1.0, 2.0])


def test_the_file_may_give_what_must_be_given(file, capsys):
    path = file("cube: nowhere.npz\nmodel_path: .")
    assert "required: --model-name" in refused(cli.train, ["--config", path], capsys)
    assert cli.train(["--config", path, "--model-name", "m"]) == 2
    assert "nowhere.npz" in capsys.readouterr().err


def test_what_is_switched_on_by_the_file_can_be_switched_off(file):
    assert "xla: false" in show(cli.train, "--config", file("xla: true"), "--no-xla")
    assert "report: false" in show(cli_evaluate.diagnostics, "--config", file("report: true"), "--no-report")


def test_impossible_settings_of_a_file_are_refused(file, capsys):
    assert cli.train([*REQUIRED, "--config", file("frac: 2")]) == 2
    assert "frac is a fraction between 0 and 1, both excluded, not 2.0" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_printed_can_be_read_again(name, file):
    command, argv = COMMANDS[name]
    text = show(command, *argv)
    assert show(command, "--config", file(text)) == text
    assert yaml.safe_load(text)
    plain = show(command)
    assert show(command, "--config", file(plain)) == plain != text
    assert plain.startswith(f"# options of {name}, for --config\n")


def test_the_defaults_are_printed_without_what_must_be_given():
    told = yaml.safe_load(show(cli.train))
    assert told["cube"] is None
    assert told["learning_rate"] is None
    assert (told["epochs"], told["seed"], told["augmentation"]) == (10, [0], ["flips-turns"])
    assert yaml.safe_load(show(cli_export.export))["model"] is None
    with pytest.raises(SystemExit) as ended:
        cli.train([])
    assert ended.value.code == 2


def test_what_is_wrong_is_not_printed(capsys, file):
    assert "--epohcs" in refused(cli.train, ["--epohcs", "3", "--print-config"], capsys)
    assert "invalid int" in refused(cli.train, ["--print-config", "--config", file("epochs: x")], capsys)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
numbers = st.floats(allow_nan=False).map(str)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    note=texts,
    rate=numbers,
    seeds=st.lists(st.integers(0, 99), min_size=1),
    kinds=st.lists(st.sampled_from(AUGMENTATIONS), min_size=1),
    xla=st.booleans(),
)
def test_any_settings_survive_a_file(file, note, rate, seeds, kinds, xla):
    given = [f"--note={note}", f"--model-name={note}", f"--learning-rate={rate}", "--seed", *map(str, seeds)]
    text = show(cli.train, *given, "--augmentation", *kinds, "--xla" if xla else "--no-xla")
    assert show(cli.train, "--config", file(text)) == text
    told = yaml.safe_load(text)
    assert (told["note"], told["model_name"], told["seed"], told["augmentation"]) == (note, note, seeds, kinds)
    assert (float(told["learning_rate"]), told["xla"]) == (float(rate), xla)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_names_in_other_scripts_survive_any_terminal(encoding, tmp_path):
    code = "from otrain_train.cli import train; train(['--model-name', '\u5149é', '--print-config'])"
    environment = {"PYTHONIOENCODING": encoding, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert yaml.safe_load(done.stdout)["model_name"] == "\u5149é"


def test_printing_starts_nothing_heavy():
    code = """
import sys
from otrain_train import cli, cli_evaluate, cli_export
evaluating = [getattr(cli_evaluate, name) for name in ("diagnostics", "plot_results", "checkinfer", "grad_cam")]
for command in (cli.convert, cli.train, cli.mock, cli.optimise_dataset_size, cli_export.export, *evaluating):
    try:
        command(["--print-config"])
    except SystemExit as ended:
        assert not ended.code
heavy = {"tensorflow", "keras", "sklearn", "scipy", "matplotlib", "numba", "astropy", "onnx", "onnxruntime"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
