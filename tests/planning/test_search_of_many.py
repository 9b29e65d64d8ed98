"""A search by several workers or processes: the same result, and no finished trial is lost."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import keras
import numpy as np
import pytest

import tfcompress as tfc

pytest.importorskip("optuna")

ROOT = pathlib.Path(__file__).parent.parent.parent
RNG = np.random.default_rng(0)
X = RNG.normal(size=(240, 16)).astype("float32")
Y = (X @ RNG.normal(size=(16, 3))).argmax(1)
OPTIONS = {"fine_tune": 1, "target": "bits"}

PROGRAM = f"""
import sys
sys.path[:0] = {[str(ROOT), os.path.dirname(__file__)]}
import tfcompress as tfc
from test_search_of_many import OPTIONS, X, Y, net
tfc.search(net(), (X, Y), 0.2, int(sys.argv[2]), storage=sys.argv[1], **OPTIONS)
"""


def net():
    keras.utils.set_random_seed(0)
    hidden = keras.layers.Dense(32, "relu", name="fc")
    model = keras.Sequential([keras.Input((16,)), hidden, keras.layers.Dense(3, name="out")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    model.fit(X, Y, epochs=5, verbose=0)
    return model


@pytest.mark.slow
def test_a_search_is_the_same_by_whatever_executor():
    model = net()
    alone = tfc.search(model, (X, Y), 0.2, trials=5, **OPTIONS)
    context = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(2, context) as pool:
        for executor in (threads, pool):
            made = tfc.search(model, (X, Y), 0.2, trials=5, executor=executor, **OPTIONS)
            assert made.after == alone.after and made.size == alone.size
            pairs = zip(made.model.get_weights(), alone.model.get_weights(), strict=True)
            assert all(np.array_equal(a, b) for a, b in pairs)


def finished(storage):
    """`{number: value}` of the trials that are done."""
    import optuna

    states = (optuna.trial.TrialState.COMPLETE,)
    try:
        study = optuna.load_study(study_name="tfcompress", storage=storage)
        return {trial.number: trial.value for trial in study.get_trials(states=states)}
    except Exception:  # it is not there yet
        return {}


def start(storage, trials):
    env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", PROGRAM, storage, str(trials)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_search_of_two_processes_that_is_killed_loses_no_finished_trial(tmp_path):
    storage, trials = f"sqlite:///{tmp_path}/search.db", 8
    processes = [start(storage, trials) for _ in range(2)]
    end = time.monotonic() + 200
    while len(finished(storage)) < 2 and time.monotonic() < end:
        assert processes[0].poll() is None or processes[0].returncode == 0
        time.sleep(0.1)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
    before = finished(storage)
    assert len(before) >= 2

    other = start(storage, trials)
    made = tfc.search(net(), (X, Y), 0.2, trials, storage=storage, **OPTIONS)
    _, problems = other.communicate(timeout=200)
    assert other.returncode == 0, problems
    after = finished(storage)
    assert before.items() <= after.items()
    assert trials <= len(after) <= trials + 1  # the other process may have been at its last one
    assert made.after == pytest.approx(max(after.values()), abs=1e-6)
