import collections
import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each test process: there are two of them
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import keras
import pytest

# Variants of tests that take long, of which others of their kind always run: `pytest -m matrix`.
LONG = {
    "test_example_runs": (
        *("cp_and_fine_tune", "distil_into_binary", "fitnets_hints", "hashed_and_circulant"),
        *("kd_unlabelled", "obd_loop", "obs_against_magnitude", "prune_channels"),
        *("sensitivity_picture", "hear_words_piece_by_piece", "speak_piece_by_piece"),
        *("svd_of_dense_layers", "ternary_without_labels", "proxnewton_ternary_cnn"),
    ),
    "test_a_notebook_runs": ("speech_commands", "keras_hub_classifier"),
    "test_the_code_of_a_page_runs": ("migrating-from-tfmot",),
    "test_a_swap_trains_saves_and_loads": (
        *("Backbone-chain", "doubled-bits", "doubled-chain", "functional-chain"),
        *("subclassed-bits", "wrapped-bits", "wrapped-chain"),
    ),
    "test_in_place_keeps_every_reference": ("Backbone", "doubled", "wrapped"),
    "test_a_resumed_fit_is_equal_in_every_bit": ("1-1-obd", "4-1-obd", "5-2-obd", "7-4-obd"),
    "test_products_of_wrapped_cells": ("of cells", "of one cell"),
    "test_training_goes_on_bit_for_bit_after_a_reload": ("Linear(bits=4, axis=-1)",),
    "test_gradients_are_clipped": ("clipvalue", "global_clipnorm"),
    "test_what_is_too_much_for_the_memory_is_read_in_each_epoch": ("False",),
}


def pytest_itemcollected(item):
    variant = item.name.partition("[")[2].removesuffix("]")
    if variant in LONG.get(getattr(item, "originalname", None), ()):
        item.add_marker("matrix")


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


def pytest_configure(config):
    if hasattr(
        config.option, "randomly_reset_seed"
    ):  # the order is random, the draws are `_seed`'s
        config.option.randomly_reset_seed = False


def pytest_addoption(parser):
    parser.addoption("--sample", type=int, help="run only so many tests, always the same ones")
    parser.addoption(
        "--variants",
        type=int,
        help="run only so many variants of each test, others with another --randomly-seed",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    variants, sample = config.getoption("--variants"), config.getoption("--sample")
    if variants is not None:
        seed = getattr(config.option, "randomly_seed", 0)
        groups = collections.defaultdict(list)
        for item in items:
            groups[item.nodeid.partition("[")[0]].append(item.nodeid)
        _keep(items, [n for group in groups.values() for n in _drawn(group, variants, seed)])
    if sample is not None:
        _keep(items, _drawn([item.nodeid for item in items], sample, ""))


def _drawn(names, count, seed):
    """So many of the names, by checksums: another test does not change which of the others run."""
    return sorted(names, key=lambda name: zlib.crc32(f"{seed}{name}".encode()))[:count]


def _keep(items, names):
    kept = set(names)
    items[:] = [item for item in items if item.nodeid in kept]
