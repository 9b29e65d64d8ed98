"""Schedules: the value of a hyperparameter as a function of the training step.

Each is a class that Keras can save; an object of it is called on a step and returns a float.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import keras

from tfcompress.utils.checks import is_number, whole_number
from tfcompress.utils.types import Config

FAR = 10**9  # a step after the end of any schedule


class _Schedule:
    def get_config(self) -> Config:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Config) -> Self:
        return cls(**config)


@keras.saving.register_keras_serializable("tfcompress")
@dataclasses.dataclass(frozen=True)
class Constant(_Schedule):
    """The same value at every step.

    >>> Constant(0.8)(100)
    0.8

    Args:
        value: a finite number.
    """

    value: float

    def __post_init__(self):
        _check_number("value", self.value)

    def __call__(self, step: int) -> float:
        return float(self.value)


@keras.saving.register_keras_serializable("tfcompress")
@dataclasses.dataclass(frozen=True)
class Polynomial(_Schedule):
    """From `start` to `end` in `steps` steps, fast at first and slower towards the end.

        value = start * q + end * (1 - q),   q = (1 - p)^power,
        p = clip((step - begin) / steps, 0, 1)

    It is `start` up to step `begin`, and `end` from step `begin + steps` on.

    >>> schedule = Polynomial(0.0, 0.8, steps=1000)
    >>> [round(schedule(step), 3) for step in (0, 500, 1000, 2000)]
    [0.0, 0.7, 0.8, 0.8]

    Args:
        start, end: finite numbers.
        steps: how many steps the value takes from `start` to `end`, at least 1.
        begin: the step at which it begins to change.
        power: above 0. 1 is a straight line, 3 the cubic of the paper.

    Reference: Zhu, Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression", 2017.
    """

    start: float
    end: float
    steps: int
    begin: int = 0
    power: float = 3

    def __post_init__(self):
        _check_number("start", self.start)
        _check_number("end", self.end)
        whole_number(self.steps, "steps")
        whole_number(self.begin, "begin", least=0)
        _check_number("power", self.power)
        if self.power <= 0:
            raise ValueError(f"Expected `power` above 0. Received: power={self.power}")

    def __call__(self, step: int) -> float:
        left = (1 - min(max((step - self.begin) / self.steps, 0.0), 1.0)) ** self.power
        return float(self.start * left + self.end * (1 - left))


@keras.saving.register_keras_serializable("tfcompress")
@dataclasses.dataclass(frozen=True)
class Linear(_Schedule):
    """From `start` to `end` in `steps` steps, in a straight line: `Polynomial` with power 1.

    >>> Linear(1.0, 0.0, steps=10, begin=5)(10)
    0.5

    Args:
        start, end: finite numbers.
        steps: how many steps the value takes from `start` to `end`, at least 1.
        begin: the step at which it begins to change.
    """

    start: float
    end: float
    steps: int
    begin: int = 0

    def __post_init__(self):
        Polynomial(self.start, self.end, self.steps, self.begin, power=1)

    def __call__(self, step: int) -> float:
        return Polynomial(self.start, self.end, self.steps, self.begin, power=1)(step)


@keras.saving.register_keras_serializable("tfcompress")
@dataclasses.dataclass(frozen=True)
class Piecewise(_Schedule):
    """Constant between given steps: the value of the last given step that has been reached.

    >>> schedule = Piecewise({0: 0.0, 100: 0.5, 200: 0.8})
    >>> schedule(99), schedule(100), schedule(1000)
    (0.0, 0.5, 0.8)

    Args:
        values: `{step: value}`, or pairs of these; the steps are whole numbers, 0 among them.
    """

    values: Mapping

    def __post_init__(self):
        try:
            values = dict(self.values)
        except (TypeError, ValueError):
            raise TypeError(
                f"Expected a mapping {{step: value}}. Received: values={self.values!r}"
            ) from None
        for step, value in values.items():
            whole_number(step, "step", least=0)
            _check_number(f"value of step {step}", value)
        if 0 not in values:
            raise ValueError(
                "Expected a value for step 0, where the schedule begins. "
                f"Received: values={self.values!r}"
            )
        # The dataclass is frozen; a tuple, unlike a dict, can be hashed as it promises.
        object.__setattr__(self, "values", tuple(sorted(values.items())))

    def __call__(self, step: int) -> float:
        return float([value for key, value in self.values if key <= step][-1])


def check_schedule(schedule: Any) -> Callable[[int], float]:
    """Returns `schedule`, or raises `TypeError` if it cannot be called on a step."""
    if callable(schedule) and not isinstance(schedule, type):
        return schedule
    raise TypeError(
        "Expected a schedule: an object called on a step, like `tfc.schedules.Constant(0.8)`. "
        f"Received: {schedule!r}"
    )


def value_at(schedule: Any, step: int, since: int | None = None) -> float | None:
    """The value of any schedule at a step.

    The schedules of `tensorflow_model_optimization` return a pair: whether to act at this step, and
    the value. For these the result is the value at the last step to act at, after `since` and up to
    `step`, or None where there is none. So no step is lost where the caller asks less often than
    the schedule acts.

    >>> value_at(Constant(0.5), 3)
    0.5
    >>> value_at(lambda step: (step % 2 == 0, 0.1 * step), 3, since=0)
    0.2

    Args:
        schedule: a callable: step -> number, or step -> (bool, number).
        step: how many training steps have been taken.
        since: the step of the last call, by default the step before.

    Raises:
        TypeError: the schedule returns neither a number nor a pair.
    """
    since = step - 1 if since is None else since
    for candidate in range(step, since, -1):
        value = schedule(candidate)
        if not isinstance(value, (tuple, list)):
            return _number(schedule, value)
        if len(value) != 2:
            _number(schedule, value)  # raises
        if bool(value[0]):
            return _number(schedule, value[1])
    return None


def last_value(schedule: Any) -> float | None:
    """The value that a schedule comes to in the end, or None where that cannot be told.

    >>> last_value(Polynomial(0.0, 0.8, steps=1000))
    0.8
    """
    for name in ("final_sparsity", "target_sparsity"):  # of tensorflow_model_optimization
        if hasattr(schedule, name):
            return float(getattr(schedule, name))
    try:
        value = schedule(FAR)
    except Exception:  # a callable that knows the steps of its own training only
        return None
    return float(value) if is_number(value) else None


def _number(schedule, value):
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"Expected the schedule {schedule!r} to return a number. Received: {value!r}"
        ) from None


def _check_number(name, value):
    if not is_number(value) or not math.isfinite(value):
        raise ValueError(f"Expected `{name}` to be a finite number. Received: {name}={value!r}")
