import keras
import pytest

from tfcompress.planning.costs import file_of
from tfcompress.planning.latency.layer_times import EMPTY, file_key
from tfcompress.planning.latency.timing import add_missing, add_whole


def file(units):
    layer = keras.layers.Dense(units)
    layer.build((None, 4))
    return file_of([layer], (None, 4), "fast")


FILES = {units: file(units) for units in (2, 3, 5)}
KEYS = {file_key(blob): units for units, blob in FILES.items()}


def timer(*rounds):
    """Gives `{units: seconds}` of one round after the other, and notes what was asked."""
    asked = []

    def run(blobs):
        units = [KEYS[file_key(blob)] for blob in blobs.values()]
        asked.append(units)
        return [[one[n] for one in rounds] for n in units]

    return run, asked


def makers(**units):
    return {key: lambda n=n: FILES[n] for key, n in units.items()}


def test_a_form_takes_what_float32_takes_times_the_median_ratio():
    # the machine is twice as slow in the last round: the ratios are 0.5, 0.25 and 0.5
    run, asked = timer({2: 0.004, 3: 0.002}, {2: 0.004, 3: 0.001}, {2: 0.008, 3: 0.004})
    times, saved = {}, []
    add_missing(times, [makers(plain=2, form=3, other=3)], run, lambda: saved.append(dict(times)))
    assert times == {"plain": 4.0, "form": 2.0, "other": 2.0} and saved == [times]
    assert asked == [[2, 3]]  # files with other numbers alone run once


def test_what_is_known_is_not_timed_again():
    run, asked = timer({2: 0.004, 5: 0.006})
    times, saved = {"plain": 10.0, "form": 1.0}, []
    groups = [makers(plain=2, form=3, late=5), makers(plain=2, form=3)]
    add_missing(times, groups, run, lambda: saved.append(1))
    # of an earlier run on a slower machine, so that the ratio counts
    assert times == {"plain": 10.0, "form": 1.0, "late": 15.0}
    assert asked == [[2, 5]] and saved == [1]


def test_a_form_that_is_stored_as_float32_takes_the_same():
    run, _ = timer({2: 0.004})
    times = {}
    add_missing(times, [makers(plain=2, form=2)], run, lambda: None)
    assert times == {"plain": 4.0, "form": 4.0}


def test_a_whole_file_is_measured_beside_the_layers():
    run, asked = timer({2: 0.001, 3: 0.003, 5: 0.006}, {2: 0.002, 3: 0.006, 5: 0.012})
    groups = [makers(**{EMPTY: 5}), makers(a=2, form=5), makers(b=3)]
    times = {EMPTY: 1.0, "a": 10.0, "b": 30.0}
    add_whole(times, [FILES[5], FILES[5]], groups, run, lambda: None)
    assert times[file_key(FILES[5])] == pytest.approx(60.0, rel=1e-12)
    add_whole(times, [FILES[5]], groups, run, lambda: None)
    assert asked == [[2, 3, 5]]
