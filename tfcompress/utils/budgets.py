"""Budgets as a user gives them: a share, a number, a text with its unit, or two by target."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tfcompress.utils.checks import check_budget, check_number

TARGETS = ("bits", "tflite", "archive", "macs", "milliseconds")
TIME = re.compile(r"([0-9]*\.?[0-9]+(?:e-?[0-9]+)?) ?(us|ms|s)")
MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


class Limit(NamedTuple):
    """A budget of one target.

    Attributes:
        value: a share of what the float32 network takes, or a number of units.
        is_share: which of both.
    """

    value: float
    is_share: bool

    def of(self, float_cost: float, unit: float = 1) -> float:
        """In the unit of the cost, of which `unit` make one of the budget's."""
        return self.value * (float_cost if self.is_share else unit)


def read_limits(budget: Any, target: str) -> dict[str, Limit]:
    """`{target: Limit}` of a budget as `plan` takes it; of two, milliseconds come last.

    Raises:
        TypeError: it is no number, text or dict of these.
        ValueError: it is out of range, or not of the targets that go together.

    >>> read_limits({"milliseconds": "300us", "tflite": 0.1}, "bits")
    {'tflite': Limit(value=0.1, is_share=True), 'milliseconds': Limit(value=0.3, is_share=False)}
    """
    if isinstance(budget, str):
        budget = {"milliseconds": budget}
    if not isinstance(budget, Mapping):
        check_target(target)
        return {target: _limit(budget, target)}
    for name in budget:
        check_target(name, "a target of `budget`")
    if len(budget) not in (1, 2) or (len(budget) == 2 and "milliseconds" not in budget):
        raise ValueError(
            "Expected `budget` to have one target, or two of which one is 'milliseconds'. "
            f"Received: {dict(budget)!r}"
        )
    names = sorted(budget, key=lambda name: name == "milliseconds")
    return {name: _limit(budget[name], name) for name in names}


def check_target(target: Any, name: str = "`target`") -> None:
    """Raises `ValueError` unless a budget can count it."""
    if target not in TARGETS:
        raise ValueError(f"Expected {name} to be one of {TARGETS}. Received: {target!r}")


def check_counts_time(latency: Any, target: str, time: Limit | None) -> None:
    """Raises `ValueError` for times of layers that no budget counts."""
    if latency is not None and target != "milliseconds" and time is None:
        raise ValueError(
            "`latency` are times of layers, which only a budget of time counts, such as '5ms'. "
            f"Received: target={target!r}"
        )


def _limit(budget, target) -> Limit:
    if target == "milliseconds":
        return _time(budget)
    check_budget(budget)
    return Limit(float(budget), budget <= 1)


def _time(budget) -> Limit:
    if isinstance(budget, str):
        found = TIME.fullmatch(budget)
        if not found or not float(found[1]) > 0:
            raise ValueError(
                "Expected `budget` to be a number, such as 0.1 for 10%, or a text of time, such as "
                f"'5ms' or '300us'. Received: {budget!r}"
            )
        return Limit(float(found[1]) * MILLISECONDS[found[2]], False)
    check_number(budget, "budget")
    if not 0 < budget < math.inf:
        raise ValueError(f"Expected `budget` > 0. Received: {budget!r}")
    return Limit(float(budget), budget <= 1)


def of_budget(budget: Any, target: str) -> tuple[str, Limit | None, Limit | None]:
    """The target that is not of time, unless there is no other, its limit, and that of time."""
    if budget is None:
        check_target(target)
        return target, None, None
    (target, limit), *more = read_limits(budget, target).items()
    return target, limit, dict(more).get("milliseconds")
