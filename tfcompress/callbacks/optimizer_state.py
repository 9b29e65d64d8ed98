"""What optimizers keep beside the weights of a model: moving averages and latent weights."""

from typing import Any

from tfcompress.graph.private_training import moving_averages
from tfcompress.optimizers import ProxNewton


def check_no_latents(optimizer: Any) -> None:
    """Raises `ValueError` if an optimizer keeps latent weights of its own."""
    if any(isinstance(part, ProxNewton) for part in _optimizers(optimizer)):
        raise ValueError(
            "`ProxNewton` keeps latent float weights, from which the next step would restore "
            "pruned weights. Prune first and train with `tfc.project.Ternary` or `KSparse` "
            "afterwards, or prune under another optimizer."
        )


def _optimizers(optimizer):
    """The optimizers inside a `LossScaleOptimizer` or one that holds several; or just this one."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(optimizer, "optimizers", [optimizer])


def averages_of(optimizer: Any) -> dict[int, Any]:
    """`{id(variable): its moving average}` of all optimizers that keep averages."""
    found = {}
    for part in _optimizers(optimizer):
        if getattr(part, "use_ema", False) and part.built:
            found |= {id(variable): average for variable, average in moving_averages(part)}
    return found
