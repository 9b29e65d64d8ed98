"""Times small files, each beside the float32 form of its layer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfcompress.planning.latency.layer_times import EMPTY, file_key
from tfcompress.planning.latency.small_files import Files
from tfcompress.tflite.run_in_child import time_files
from tfcompress.utils.progress import progress

ROUNDS, SECONDS = 31, 2.0  # of each layer's files: at most so many, in about so long
Timer = Callable[[dict[str, bytes]], Any]  # seconds of one run of each file, in each round


def timer_here(threads: int = 1) -> Timer:
    """Times files in turn by LiteRT on this machine."""
    return lambda blobs: time_files(blobs, threads, (1, 1), ROUNDS, 3, SECONDS)[0]


def add_missing(
    milliseconds: dict[str, float], groups: Sequence[Files], timer: Timer, save: Callable[[], None]
) -> None:
    """Adds the times of files that are not there yet.

    All files of a group run in turn. The time of a form is that of the layer in float32 times the
    median ratio of both in a round, so that it holds where an earlier run has measured the first.
    Files that differ in the numbers of their kernels alone are timed once.

    Args:
        milliseconds: by the files' keys.
        groups: see `small_files`.
        timer: gives the seconds of each file in each round.
        save: called after each group.
    """
    waiting = [group for group in groups if not milliseconds.keys() >= group.keys()]
    for group in progress(waiting, "Timing layers", len(waiting), lambda group: next(iter(group))):
        first, *others = group
        missing = [key for key in others if key not in milliseconds]
        blobs = {key: group[key]() for key in (first, *missing)}
        same = {key: file_key(blob) for key, blob in blobs.items()}
        distinct = {same[key]: blob for key, blob in reversed(blobs.items())}
        distinct = {same[first]: distinct.pop(same[first]), **distinct}
        seconds = dict(zip(distinct, np.asarray(timer(distinct)), strict=True))
        if first not in milliseconds:
            milliseconds[first] = 1e3 * float(np.median(seconds[same[first]]))
        for key in missing:
            ratio = float(np.median(seconds[same[key]] / seconds[same[first]]))
            milliseconds[key] = milliseconds[first] * ratio
        save()


def add_whole(
    milliseconds: dict[str, float],
    wholes: Sequence[bytes],
    groups: Sequence[Files],
    timer: Timer,
    save: Callable[[], None],
) -> None:
    """Adds the times of a model's whole files, measured beside the small ones in float32.

    Args:
        wholes: the files.
        milliseconds, groups, timer, save: see `add_missing`, which has added those of the groups.
    """
    missing = {file_key(blob): blob for blob in wholes}
    missing = {key: blob for key, blob in missing.items() if key not in milliseconds}
    if not missing:
        return
    small = [next(iter(group.items())) for group in groups]
    small = {key: make() for key, make in small if key != EMPTY}
    seconds = np.asarray(timer({**small, **missing}))
    beside, known = seconds[: len(small)].sum(0), sum(milliseconds[key] for key in small)
    for key, own in zip(missing, seconds[len(small) :], strict=True):
        milliseconds[key] = known * float(np.median(own / beside))
    save()
