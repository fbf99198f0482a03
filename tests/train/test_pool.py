"""Work in other processes: what fails, what is killed, what is interrupted."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from otrain_infer.errors import UsageError
from otrain_train.pool import TASKS_OF_ONE, run_in_processes, suitable_processes


def work(common, task, place):
    """Do what the task says, in another process."""
    if task == "raise":
        raise UsageError("that makes no sense")
    if task == "strange":
        raise KeyError("nowhere")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "die once" and not Path(common).exists():
        Path(common).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{task} {place.threads} {os.environ['TF_NUM_INTRAOP_THREADS']}"


def forever(common, task, place):
    """Work until asked to stop."""
    (Path(common) / task).write_text(str(os.getpid()))
    while True:
        place.stop_if_asked()
        time.sleep(0.01)


def run(tasks, processes=1, common="", done=None):
    results = {} if done is None else done
    outcome = run_in_processes(work, common, {task: task for task in tasks}, processes, results.__setitem__)
    return results, outcome


def test_failures_do_not_end_the_rest():
    results, outcome = run(["a", "raise", "strange", "b"], 2)
    assert results.keys() == {"a", "b"}
    task, threads, told = results["a"].split()
    assert (task, threads) == ("a", told)
    assert outcome.failures == {"raise": "that makes no sense", "strange": "KeyError: 'nowhere'"}
    assert not outcome.interrupted


def test_nothing_to_do_starts_nothing():
    assert run([]) == ({}, run([])[1])


def test_what_is_killed_is_done_again_with_fewer(tmp_path):
    results, outcome = run(["die once", "a", "b"], 2, str(tmp_path / "died"))
    assert results.keys() == {"die once", "a", "b"}
    assert outcome.failures == {}


def test_what_kills_every_time_is_told_and_the_rest_done():
    results, outcome = run(["die", "a"])
    assert results.keys() == {"a"}
    assert outcome.failures.keys() == {"die"}
    assert outcome.failures["die"].startswith("its process was killed: perhaps memory ran out, or the script")


def test_more_tasks_than_a_process_does():
    tasks = [str(i) for i in range(TASKS_OF_ONE + 3)]
    results, outcome = run(tasks)
    assert [*results] == tasks
    assert outcome.failures == {}


SCRIPT = """
import sys
from pathlib import Path
import test_pool
from otrain_train.pool import run_in_processes
if __name__ == "__main__":
    outcome = run_in_processes(test_pool.forever, sys.argv[1], {"a": "a", "b": "b", "c": "c"}, 2, print)
    print(outcome.interrupted, outcome.failures)
"""


@pytest.fixture
def started(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "ab"))
    yield process, [int((tmp_path / name).read_text()) for name in "ab"]
    process.kill()
    process.communicate()


def wait_for(met, seconds=60):
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("to_all", [True, False])
def test_ctrl_c_ends_what_is_being_done(started, to_all):
    process, pids = started
    # A terminal sends it to all processes; a supervisor to the first alone.
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.strip() == "True {}"
    assert "Traceback" not in err
    assert not any(map(is_running, pids))


def test_processes_end_with_the_one_that_started_them(started):
    process, pids = started
    process.kill()
    wait_for(lambda: not any(map(is_running, pids)))


def test_as_many_as_memory_is_enough_for():
    assert suitable_processes(1) == len(os.sched_getaffinity(0))
    assert suitable_processes(1 << 60) == 1
    assert multiprocessing.parent_process() is None
