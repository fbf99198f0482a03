"""Trainings on several devices, on several hosts, in other precisions and compiled."""

import json
import logging
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from otrain_infer.errors import UsageError
from otrain_infer.normalise import Normalisation
from otrain_train.devices import Devices, start
from otrain_train.fit import fit
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build
from otrain_train.settings import TrainSettings
from otrain_train.trainer import Trainer, make_repeatable

SETTINGS = TrainSettings(
    epochs=2,
    min_steps=3,
    batch_size=15,
    seeds=(5,),
    dropout=0,
    augmentation=("flips-turns", "shifts", "edges"),
)

CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
import tensorflow as tf
if "logical" in sys.argv:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import numpy as np
from otrain_infer.errors import UsageError
from otrain_train.datacube import Datacube
from otrain_train.fit import fit
from otrain_train.settings import TrainSettings

cube, folder, settings = Datacube.load(sys.argv[1]), Path(sys.argv[2]), TrainSettings(**eval(sys.argv[3]))
rows, steps, epochs = np.arange(len(cube)), [], []
for name in ("first",) if "logical" in sys.argv else ("first", "again"):
    result = fit(cube, rows, settings, folder, lambda step, *_: steps.append(step), on_epoch=epochs.append)
    np.savez(folder / f"{name}.npz", result.holdout_logits, *result.model.get_weights())
print("told of", len(steps), "steps and", len(epochs), "epochs")
for changes in eval(sys.argv[4]):
    try:
        fit(cube, rows, replace(settings, **changes), folder / "refused")
    except UsageError as error:
        print(error)
"""


def run_child(cube, folder, settings, changes=(), config=None, *words):
    folder.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(cube), str(folder), repr(settings.to_dict())]
    surroundings = os.environ | ({"TF_CONFIG": json.dumps(config)} if config else {})
    return subprocess.Popen(
        [*command, repr(changes), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings,
    )


def free_addresses(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


@pytest.fixture(scope="module")
def cube():
    return mock_arrays(MockSettings(30, 40, size=16, planes=("SCI", "DIFF"), seed=3))


@pytest.fixture(scope="module")
def said(cube, tmp_path_factory):
    """What two hosts and a process with two devices said, and the folder of their folders."""
    folder = tmp_path_factory.mktemp("devices")
    cube.save(folder / "cube.npz")
    hosts, addresses = replace(SETTINGS, devices="hosts"), free_addresses(2)
    children = {}
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        children[f"host {index}"] = run_child(
            folder / "cube.npz", folder / f"host {index}", hosts, [{"seeds": (index,)}], config
        )
    impossible = [{"batch_size": 1}, {"xla": True}]
    children["two"] = run_child(
        folder / "cube.npz", folder / "two", replace(SETTINGS, devices="all"), impossible, None, "logical"
    )
    found = {}
    try:
        for name, child in children.items():
            out, err = child.communicate(timeout=240)
            assert child.returncode == 0, err[-3000:]
            found[name] = out
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
    return found, folder


@pytest.fixture(scope="module")
def alone(cube, tmp_path_factory):
    """The same training on one device."""
    return fit(cube, np.arange(len(cube)), SETTINGS, tmp_path_factory.mktemp("alone"))


def arrays(path):
    with np.load(path) as members:
        return list(members.values())


@pytest.mark.parametrize("name", ["two", "host 0"])
def test_several_devices_learn_what_one_learns(said, alone, name):
    logits, *weights = arrays(said[1] / name / "first.npz")
    np.testing.assert_allclose(logits, alone.holdout_logits, atol=2e-3)
    for mine, theirs in zip(weights, alone.model.get_weights(), strict=True):
        # The first steps of Adam make much of gradients that are next to nothing.
        np.testing.assert_allclose(mine, theirs, atol=1e-3)
        assert np.mean(np.abs(mine - theirs)) < 1e-4


def test_hosts_end_with_the_same_network_and_the_chief_alone_writes(said):
    found, folder = said
    for name in ("first", "again"):
        mine, theirs = (arrays(folder / f"host {index}" / f"{name}.npz") for index in range(2))
        assert all(np.array_equal(*each) for each in zip(mine, theirs, strict=True))
    assert (folder / "host 0/checkpoint/state_5.npz").exists()
    assert sorted(each.name for each in (folder / "host 1").iterdir()) == ["again.npz", "first.npz"]
    steps = 2 * 4
    assert found["host 0"].splitlines()[0] == f"told of {steps} steps and 2 epochs"
    assert found["host 1"].splitlines()[0] == f"told of {steps} steps and 0 epochs"


@pytest.mark.parametrize("host", [0, 1])
def test_a_training_that_is_over_is_taken_over_by_all_hosts(said, host):
    first, again = (arrays(said[1] / f"host {host}" / f"{each}.npz") for each in ("first", "again"))
    assert all(np.array_equal(*each) for each in zip(first, again, strict=True))


def test_hosts_that_were_given_different_things_say_so(said):
    for index in range(2):
        assert "the hosts were given different rows or settings" in said[0][f"host {index}"]


def test_what_several_devices_cannot_do_is_said(said):
    _, small, compiled = said[0]["two"].splitlines()
    assert small == "a batch of 1 rows cannot be shared by 2 devices: take a larger batch-size"
    assert compiled == "XLA compiles the steps of one device, and there are 2: leave it off"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "environment variable TF_CONFIG, such as"),
        ("a:4000,b:4000", "TF_CONFIG does not name hosts and this one"),
        ('["a:4000"]', "does not name"),
        ('{"cluster": {"worker": ["a:4000"]}}', "does not name"),
        ('{"cluster": {"worker": ["a:4000"]}, "task": {"type": "worker", "index": 1}}', "does not name"),
        ('{"cluster": {"worker": ["a:4000"]}, "task": {"type": "worker", "index": -1}}', "does not name"),
        ('{"cluster": {"worker": ["a:4000"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}', "does not name"),
    ],
)
def test_hosts_that_are_not_named_are_asked_for(config, sentence, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config is not None:
        monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UsageError, match=sentence):
        start("hosts")


def test_all_of_one_device_is_that_one(caplog):
    start.cache_clear()
    with caplog.at_level(logging.WARNING):
        devices = start("all")
    assert "one device only" in caplog.text
    assert (devices.count, devices.hosts, devices.is_chief) == (1, 1, True)


@pytest.mark.parametrize(("rows", "hosts", "local"), [(64, 2, 4), (15, 3, 1), (7, 1, 7), (10, 2, 3)])
def test_hosts_share_every_row_of_a_batch(rows, hosts, local):
    taken = []
    for host in range(hosts):
        share = Devices(None, hosts * local, host * local, local, hosts, host == 0).share(rows)
        taken += range(rows)[share]
    assert taken == list(range(rows))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_leaves_a_network_in_float32(precision, cube, alone, tmp_path):
    result = fit(cube, np.arange(len(cube)), replace(SETTINGS, precision=precision), tmp_path)
    assert result.settings.precision == precision
    assert {layer.dtype_policy.name for layer in result.model.layers} == {"float32"}
    assert {each.dtype for each in result.model.get_weights()} == {np.dtype(np.float32)}
    assert result.history != alone.history
    for mine, theirs in zip(result.history, alone.history, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=0.02)
    # What the temperature is fitted to is what the network gives in float32.
    batch = Normalisation("l2").apply(np.array(cube.cube[result.holdout]))
    margins = np.diff(result.holdout_logits, axis=1)[:, 0]
    np.testing.assert_allclose(np.asarray(result.model(batch))[:, 1], 1 / (1 + np.exp(-margins)), rtol=1e-4)


def trainer(network, **changes):
    settings = replace(SETTINGS, learning_rate=1e-3, weight_decay=0, augmentation=("none",), batch_size=8)
    return Trainer(network, replace(settings, **changes), 1, 10, start("one"))


def a_batch():
    rng = np.random.default_rng(2)
    return rng.normal(0, 1, (8, 16, 16, 1)).astype(np.float32), rng.integers(0, 2, 8), rng.uniform(0.5, 2, 8)


def test_compiled_steps_learn_the_same():
    batch, labels, weights = a_batch()
    found = []
    for xla in (False, True):
        make_repeatable(3, xla)
        learning = trainer(build("lite", (16, 16, 1), 0, 3), xla=xla)
        losses = [learning.learn(step, batch, labels, weights)[0] for step in range(4)]
        found.append(np.append(losses, learning.logits(batch)))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-4)


def test_compiled_steps_may_augment_and_leave_determinism_to_others(cube, alone, tmp_path):
    rows = np.arange(len(cube))
    compiled = fit(cube, rows, replace(SETTINGS, xla=True, dropout=0.3, epochs=1), tmp_path / "xla")
    assert np.isfinite(compiled.holdout_logits).all()
    again = fit(cube, rows, SETTINGS, tmp_path / "again")
    assert np.array_equal(again.holdout_logits, alone.holdout_logits)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_labels_are_moved_towards_one_half_and_keep_their_weights(smoothing):
    network = build("lite", (16, 16, 1), 0, 3)
    batch, labels, weights = a_batch()
    scores = np.asarray(network(batch, training=True), np.float64)
    truth = (1 - smoothing) * np.eye(2)[labels] + smoothing / 2
    expected = np.average(-(truth * np.log(scores)).sum(axis=1), weights=weights)
    loss, accuracy = trainer(build("lite", (16, 16, 1), 0, 3), label_smoothing=smoothing).learn(
        0, batch, labels, weights
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == np.mean(scores.argmax(axis=1) == labels)


def test_gradients_that_are_not_finite_are_left_out_in_fp16():
    network = build("lite", (16, 16, 1), 0, 3)
    learning = trainer(network, precision="fp16")
    batch, labels, weights = a_batch()
    before = [each.numpy() for each in network.trainable_variables]
    loss, _ = learning.learn(0, batch, labels, np.full(8, np.inf))
    assert not np.isfinite(loss)
    after = [each.numpy() for each in network.trainable_variables]
    assert all(np.array_equal(*each) for each in zip(before, after, strict=True))
    scale = learning.state()[-2]
    assert np.isfinite(learning.learn(1, batch, labels, weights)[0])
    assert learning.state()[-2] == scale == 2.0**14
    assert not np.array_equal(before[0], network.trainable_variables[0].numpy())
