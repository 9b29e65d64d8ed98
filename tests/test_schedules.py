import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.schedules import Constant, Linear, Piecewise, Polynomial, check_schedule, value_at

ALL = [
    Constant(0.8),
    Linear(1.0, 0.25, steps=8, begin=4),
    Polynomial(0.0, 0.8, steps=1000, begin=100),
    Piecewise({0: 0.0, 100: 0.5, 200: 0.8}),
]


def test_values_worked_by_hand():
    assert Constant(3)(0) == 3.0
    line = Linear(1.0, 0.0, steps=4, begin=2)
    assert [line(step) for step in range(8)] == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    cubic = Polynomial(0.0, 0.8, steps=10)
    assert cubic(5) == pytest.approx(0.8 - 0.8 * 0.125)
    assert cubic(10) == 0.8
    steps = Piecewise({5: 2.0, 0: 1.0})
    assert [steps(step) for step in (0, 4, 5, 500)] == [1, 1, 2, 2]
    assert Piecewise([(0, 1.0), (5, 2.0)]) == steps


@given(
    start=st.floats(-2, 2),
    end=st.floats(-2, 2),
    steps=st.integers(1, 50),
    begin=st.integers(0, 20),
    power=st.floats(0.5, 4),
)
def test_polynomial_goes_from_start_to_end_and_never_back(start, end, steps, begin, power):
    schedule = Polynomial(start, end, steps, begin, power)
    values = np.array([schedule(step) for step in range(begin + steps + 5)])
    assert values[begin] == start
    assert values[begin + steps] == end
    assert (np.diff(values) * np.sign(end - start) >= -1e-12).all()


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: type(schedule).__name__)
def test_config_round_trip(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert again == schedule
    assert [again(step) for step in range(0, 1300, 50)] == [
        schedule(step) for step in range(0, 1300, 50)
    ]


def test_numpy_numbers_are_numbers():
    schedule = Linear(np.float32(0), np.float64(1), np.int64(4))
    assert schedule(np.int32(2)) == 0.5


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Constant("much"), "`value`.*much"),
        (lambda: Constant(float("nan")), "finite"),
        (lambda: Linear(0.0, 1.0, steps=0), "`steps`.*at least 1"),
        (lambda: Linear(0.0, 1.0, steps=1.5), "whole number"),
        (lambda: Linear(0.0, 1.0, steps=True), "whole number"),
        (lambda: Polynomial(0.0, 1.0, steps=1, begin=-1), "`begin`"),
        (lambda: Polynomial(0.0, 1.0, steps=1, power=0), "`power` above 0"),
        (lambda: Polynomial(0.0, float("inf"), steps=1), "`end`"),
        (lambda: Piecewise({10: 0.5}), "step 0"),
        (lambda: Piecewise({}), "step 0"),
        (lambda: Piecewise({0: 0.1, -5: 0.5}), "whole number"),
        (lambda: Piecewise({0: 0.1, 5: None}), "step 5"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_types():
    with pytest.raises(TypeError, match="mapping"):
        Piecewise(3)
    with pytest.raises(TypeError, match="called on a step"):
        check_schedule(0.8)
    with pytest.raises(TypeError, match="called on a step"):
        check_schedule(Constant)
    with pytest.raises(TypeError, match="return a number"):
        value_at(lambda step: "much", 0)
    with pytest.raises(TypeError, match="return a number"):
        value_at(lambda step: (True, 0.1, 0.2), 0)


class ToolkitSchedule:
    """What tensorflow_model_optimization's schedules do: step -> (act now?, sparsity)."""

    def __init__(self, begin, end, frequency):
        self.begin, self.end, self.frequency = begin, end, frequency

    def __call__(self, step):
        act = self.begin <= step <= self.end and (step - self.begin) % self.frequency == 0
        share = min(max((step - self.begin) / (self.end - self.begin), 0), 1)
        return act, np.float32(0.5 * share)


def test_a_toolkit_schedule_speaks_only_at_its_own_steps():
    schedule = check_schedule(ToolkitSchedule(begin=50, end=250, frequency=100))
    assert value_at(schedule, 50) == 0.0
    assert value_at(schedule, 51) is None
    assert value_at(schedule, 100, since=0) == 0.0  # acted at 50
    assert value_at(schedule, 200, since=100) == 0.25  # acted at 150
    assert value_at(schedule, 300, since=200) == 0.5  # acted at 250
    assert value_at(schedule, 400, since=300) is None
