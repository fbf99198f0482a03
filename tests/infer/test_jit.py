import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from numba.core.errors import TypingError

import otrain_infer
from otrain_infer.jit import kernel

CODE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
from otrain_infer.normalise import find_blank
import numpy as np
print(find_blank(np.zeros((1, 4, 4, 1), np.float32)))
"""
WARM = "otrain_infer.warm_cache.WarmCacheLocator"


def run(cache, **environment):
    """Import kernels in a process that keeps them in a folder."""
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "SYSTEMROOT") if name in os.environ}
    env = {**known, "NUMBA_CACHE_DIR": str(cache), **environment}
    root = Path(otrain_infer.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", CODE], env=env, cwd=root, capture_output=True, text=True, check=True)
    return done.stdout


def test_kernels_are_compiled_once_and_the_user_is_told(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    assert "compiling kernels" in first
    assert second == "[ True]\n"
    assert list(tmp_path.rglob("*.nbc"))


def test_where_nothing_can_be_written_kernels_are_compiled_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    said = run(tmp_path / "file", NUMBA_CACHE_LOCATOR_CLASSES="UserProvidedCacheLocator")
    assert "compiling kernels" in said
    assert said.endswith("[ True]\n")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_a_warm_cache_is_read_where_it_cannot_be_written(tmp_path):
    run(tmp_path, NUMBA_CACHE_LOCATOR_CLASSES=WARM)
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    before = {path: path.stat().st_mtime_ns for path in folders}
    for path in folders:
        path.chmod(0o555)
    try:
        assert run(tmp_path, NUMBA_CACHE_LOCATOR_CLASSES=WARM) == "[ True]\n"
    finally:
        for path in folders:
            path.chmod(0o755)
    assert {path: path.stat().st_mtime_ns for path in folders} == before


@pytest.mark.parametrize("kind", ["*.nbi", "*.nbc"])
def test_a_damaged_cache_costs_time_and_nothing_else(tmp_path, kind):
    run(tmp_path)
    for path in tmp_path.rglob(kind):
        path.write_bytes(path.read_bytes()[:40])
    assert run(tmp_path).endswith("[ True]\n")


INNER = """
from otrain_infer.jit import kernel

@kernel("int64(int64)")
def inner(x):
    return x + 1
"""
OUTER = """
import sys

from inner import inner
from otrain_infer.jit import kernel

@kernel("int64(int64)")
def outer(x):
    return 10 * inner(x)

print(outer(1), outer.stats.cache_path.startswith(sys.argv[1]), bool(outer.stats.cache_hits))
"""


def test_a_kernel_is_compiled_anew_when_one_that_it_calls_has_changed(tmp_path):
    said = []
    (tmp_path / "outer.py").write_text(OUTER)
    for content in (INNER, INNER, INNER.replace("x + 1", "x + 2")):
        (tmp_path / "inner.py").write_text(content)
        env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, tmp_path / "outer.py", tmp_path / "cache"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        said.append(done.stdout.strip())
    assert said == ["20 True False", "20 True True", "30 True False"]


def test_threads_that_call_a_kernel_first_have_it_compiled_once():
    @kernel("int64(int64)")
    def double(x):
        return 2 * x

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: double.get(), range(8)))
    assert len(set(map(id, made))) == 1
    assert double(4) == 8


def test_a_fault_of_the_function_is_told():
    @kernel("int64(int64)")
    def wrong(x):
        return x.no_such_thing

    with pytest.raises(TypingError, match="no_such_thing"):
        wrong(1)
