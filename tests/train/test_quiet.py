import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from otrain_train.quiet import without_native_stderr


def test_native_stderr_goes_nowhere_and_comes_back(capfd):
    with without_native_stderr():
        os.write(2, b"noise")
    os.write(2, b"signal")
    assert capfd.readouterr().err == "signal"


def test_it_comes_back_after_an_error(capfd):
    with pytest.raises(KeyError), without_native_stderr():
        raise KeyError
    os.write(2, b"signal")
    assert capfd.readouterr().err == "signal"


def test_nothing_is_hidden_when_debugging(capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger("otrain_train.quiet"), "level", logging.DEBUG)
    logging.getLogger("otrain_train.quiet").manager._clear_cache()
    with without_native_stderr():
        os.write(2, b"noise")
    assert capfd.readouterr().err == "noise"


@pytest.mark.parametrize(("module", "command"), [("cli", "train"), ("cli_export", "export")])
def test_without_tensorflow_one_sentence_says_what_to_install(module, command, tmp_path):
    arguments = {
        "train": ["--cube", "c.npz", "--model-path", ".", "--model-name", "m"],
        "export": ["m.h5", "--output", "m.onnx", "--planes", "DIFF", "--normalisation", "l2"],
    }
    np.savez(tmp_path / "c.npz", cube=np.zeros((2, 16, 16, 1)), labels=[0, 1])
    imported = f"from otrain_train.{module} import {command}"
    code = f"import sys; sys.modules['tensorflow'] = None; {imported}; sys.exit({command}())"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments[command]], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "pip install 'otrain[train]'" in done.stderr
    assert "Traceback" not in done.stderr
