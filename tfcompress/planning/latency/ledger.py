"""What choices of forms cost, and the best choice within one budget or two."""

from typing import Any

from tfcompress.numerics.knapsack import solve_knapsack, solve_knapsacks
from tfcompress.planning.latency.clock import Clock
from tfcompress.planning.plan_result import Option, tables

Choice = dict[str, Option]  # by the layer's path


class Ledger:
    """The costs of the options of each layer, in one target and in time.

    Args:
        options: `{layer path: list of Option}` by rising cost; the last one is the layer as it is.
        target: see `plan`.
        fixed_cost: of the kernels that have no options.
        clock: of files; None where time does not count.
        time: milliseconds that are allowed beside another target; None for any.

    Attributes:
        float_cost: of the network as it is.
    """

    def __init__(
        self, options: Any, target: str, fixed_cost: float, clock: Clock | None, time: float | None
    ) -> None:
        self.options, self.fixed_cost, self.clock, self.time = options, fixed_cost, clock, time
        self.by_time = target == "milliseconds"
        self.times = [[option.milliseconds for option in row] for row in options.values()]
        kept = {path: row[-1] for path, row in options.items()}
        self.float_cost = clock.float_milliseconds if self.by_time else self.cost_of(kept)

    def cost_of(self, chosen: Choice) -> float:
        """The cost of the network; milliseconds are predicted."""
        if self.by_time:
            return self.clock.of(chosen)
        return self.fixed_cost + sum(option.cost for option in chosen.values())

    def smallest(self) -> Choice:
        """The choice of the least cost, within the time that is allowed."""
        if self.time is None:
            return {path: row[0] for path, row in self.options.items()}
        costs, _ = tables(self.options)
        picked = solve_knapsacks([self.times], costs, [self.clock.room(self.time)])
        return self._picked(picked) if picked else self._refuse_time(self.time)

    def choose(self, allowed: float, factors: Any) -> Choice:
        """The choice of the least damage, each layer's times its factor.

        Args:
            allowed: the budget of the target.
            factors: by the layer's path.

        Raises:
            ValueError: no choice keeps the budgets.
        """
        costs, damages = tables(self.options, factors)
        if self.by_time:
            picked = solve_knapsacks([costs], damages, [self.clock.room(allowed)])
            return self._picked(picked) if picked else self._refuse_time(allowed)
        least = self.cost_of({path: row[0] for path, row in self.options.items()})
        if allowed < least:
            raise ValueError(
                f"Even the cheapest choices need {least} of {self.float_cost}, and "
                f"{self.fixed_cost} of that is in kernels that no candidate takes. Raise the "
                f"budget. Received: {allowed}"
            )
        room = allowed - self.fixed_cost
        if self.time is None:
            return self._picked(solve_knapsack(costs, damages, room))
        rooms = [room, self.clock.room(self.time)]
        picked = solve_knapsacks([costs, self.times], damages, rooms)
        if picked:
            return self._picked(picked)
        fastest = self._picked(solve_knapsacks([costs], self.times, [room]))
        return self._refuse_time(self.time, fastest)

    def _picked(self, picked) -> Choice:
        return {path: row[i] for (path, row), i in zip(self.options.items(), picked, strict=True)}

    def _refuse_time(self, limit, fastest=None):
        within = "" if fastest is None else " that keep the other budget"
        rows = self.options.items()
        fastest = fastest or {path: min(row, key=lambda o: o.milliseconds) for path, row in rows}
        raise ValueError(
            f"Even the fastest forms{within} take {self.clock.of(fastest):.4g} ms, and the float32 "
            f"file {self.clock.float_milliseconds:.4g} ms. Raise the budget. Received: "
            f"{limit:.4g} ms"
        )


def damage(chosen: dict[str, Any], factors: dict[str, float]) -> float:
    """The damage that is expected of options, `{layer path: option}`, times a factor each."""
    return sum(factors[path] * option.measured for path, option in chosen.items())


def in_time(plans: list[Any], limit: float | None) -> list[Any]:
    """The plans whose files keep a limit of milliseconds."""
    return [plan for plan in plans if limit is None or plan.milliseconds <= limit]


def refuse_plans(milliseconds: list[float], limit: float) -> None:
    """Raises `ValueError` for plans whose files all took longer than predicted."""
    raise ValueError(
        f"The files of {len(milliseconds)} plans took {min(milliseconds):.4g} ms and more, while "
        f"less was predicted. Raise the budget. Received: {limit:.4g} ms"
    )
