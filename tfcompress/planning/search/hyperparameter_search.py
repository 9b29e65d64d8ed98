"""`search`: tunes how a budget is spread over the layers and how the model is trained."""

import dataclasses
from concurrent.futures import Executor, ThreadPoolExecutor
from time import perf_counter
from typing import Any

import keras
import numpy as np

from tfcompress.archive.model_files import model_of
from tfcompress.export.arguments import check_path
from tfcompress.graph.private_training import compiled_argument
from tfcompress.planning.attempts import BATCH_SIZE, Compressor, Known
from tfcompress.planning.compressed import Compressed, finish
from tfcompress.planning.compression import check_arguments
from tfcompress.planning.examples import Stream
from tfcompress.planning.latency.layer_times import LayerTimes
from tfcompress.planning.search.study import best_values, facts_of
from tfcompress.utils.budgets import of_budget
from tfcompress.utils.checks import is_whole, whole_number
from tfcompress.utils.progress import showing
from tfcompress.utils.types import Budget, ClassWeight, Data, Loss, Path, Store, Target, Verbose
from tfcompress.utils.workers import Shared, Workers, check_executor


def search(
    model: keras.Model | Path,
    data: Data,
    budget: Budget,
    trials: int = 20,
    *,
    storage: Any = None,
    study_name: str = "tfcompress",
    metric: Any = None,
    fine_tune: int = 3,
    teacher: keras.Model | str | None = "self",
    validation_data: Data | None = None,
    target: Target = "tflite",
    store: Store = "fast",
    loss: Loss = None,
    path: Path | None = None,
    latency: Path | LayerTimes | None = None,
    executor: Executor | None = None,
    verbose: Verbose = "auto",
    class_weight: ClassWeight = None,
    batch_size: int = BATCH_SIZE,
) -> Compressed:
    """Searches for the best spread of a budget over the layers and the best way to train.

    Each trial is a run of `compress` with other values of the learning rate (1e-4 to 5e-3), the
    weight of the teacher, its temperature, and `tilt`. The tilt gives early or late layers more of
    the budget: the damage that the plan expects in a layer is multiplied by
    `exp(tilt * (position - 1/2))`, where the position is 0 at the input and 1 at the output. The
    first trial has the values of `compress`. At the end the best trial is run again, which gives
    the same model.

    Args:
        model, data, budget, metric, teacher, target, store, loss, path, latency: as in `compress`.
        fine_tune: the number of epochs, at least 1.
        validation_data: as in `compress`. The best trial is the one with the best metric on them,
            so evaluate the result on others.
        trials: number of trials, those in the storage included.
        storage: URL of a database, such as `"sqlite:///search.db"`, from which a search that was
            interrupted continues, and which several processes can share. None keeps the trials in
            memory.
        study_name: name of the search in the storage; another model, teacher, budget, target,
            metric, store, loss, `fine_tune` or `batch_size`, or other data, is another search; of a
            dataset that is not held in memory, only the number of examples is known.
        executor: a `concurrent.futures.Executor`, whose workers run the trials; None runs them
            here, one after the other. In memory the values of four trials are drawn at a time, so
            that the result is the same whatever the executor. For a budget of time it needs
            `latency`, as workers beside each other would not measure what a file takes alone.
        verbose, class_weight, batch_size: as in `compress`.

    Returns:
        A `Compressed`, whose `tried` lists the best trial only.

    Raises:
        ImportError: the package optuna is not installed.
        ValueError: an argument is out of range.
        ExportError, WriteError: as by `compress`.

    Example:

    >>> import keras
    >>> keras.utils.set_random_seed(0)
    >>> hidden = keras.layers.Dense(64, "relu")
    >>> model = keras.Sequential([keras.Input((32,)), hidden, keras.layers.Dense(2)])
    >>> x = np.random.default_rng(0).normal(size=(400, 32))
    >>> made = search(model, x, budget=0.5, trials=2, fine_tune=1)
    >>> made.size <= 0.5 * 4 * model.count_params() + 4096
    True

    Reference: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework",
    2019.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}. A search needs optuna: pip install optuna") from error
    model = model_of(model, compile=True)
    check_arguments(model, budget, None, fine_tune, teacher)
    check_path(path)
    if not is_whole(fine_tune):
        raise ValueError(f"A search needs `fine_tune` epochs, at least 1. Received: {fine_tune!r}")
    whole_number(trials, "trials")
    check_executor(executor)
    begin, asked = perf_counter(), {"budget": budget, "target": target}
    target, limit, time = of_budget(budget, target)
    if executor is not None and latency is None and (time is not None or target == "milliseconds"):
        raise ValueError(
            "Workers beside each other would not measure what a file takes alone. Give a table of "
            "times as `latency`, see `time_layers`, or no `executor`."
        )
    with showing(verbose):
        given = data, metric, fine_tune, teacher, validation_data, target, store, loss
        terms = {"latency": latency, "time": time, "class_weight": class_weight}
        terms["batch_size"] = batch_size
        compressor = Compressor(model, *given, executor=executor, **terms)
        _check_sent(compressor.train, executor)
        budget, facts = compressor.share(limit), facts_of(asked, compressor, fine_tune)
        with Workers(executor) as workers:
            shared = _shared(compressor)

            def submit(name, values):
                return workers.submit(name, score_of, shared, budget, values)

            kept = trials, storage, study_name, facts
            best = best_values(submit, executor is not None, *kept)
        attempt = _attempt(compressor, budget, best)
        made = finish(compressor, attempt, path, asked, begin)
        return dataclasses.replace(made, tried=compressor.tried[-1:])


def _check_sent(data, executor):
    """Raises if the data would be sent to processes and are too much for that."""
    threads = executor is None or isinstance(executor, ThreadPoolExecutor)
    if isinstance(data, Stream) and not threads:
        raise ValueError(
            "`data` take more than 512 MiB, and are not sent to processes. Give fewer, a "
            f"`ThreadPoolExecutor`, or no `executor`. Received: executor={executor!r}"
        )


def _attempt(compressor, budget, values):
    paths = list(compressor.planner.options)
    factors = np.exp(values["tilt"] * np.linspace(-0.5, 0.5, len(paths)))
    given = values["rate"], values["alpha"], values["temperature"]
    return compressor.attempt(budget, *given, dict(zip(paths, factors, strict=True)))


def score_of(compressor: Compressor, budget: float, values: dict[str, float]) -> float:
    """What a trial maximizes."""
    return compressor.quality.sign * _attempt(compressor, budget, values).score


def _shared(compressor) -> Shared:
    """What makes the compressor of a worker."""
    model, compiled = compressor.model, {}
    if getattr(model, "compiled", False):
        names = "loss", "loss_weights", "metrics", "weighted_metrics"
        compiled = {name: compiled_argument(model, name) for name in names}
    parts = model, compiled, compressor.arguments, compressor.known
    return Shared(compressor_of, *parts, mine=compressor)


def compressor_of(model: keras.Model, compiled: dict, arguments: dict, known: Known) -> Compressor:
    """A compressor with what another one has measured already.

    Args:
        model: the model, in another process not compiled.
        compiled: what it was compiled with.
        arguments: the others of `Compressor`, with all data as arrays.
        known: of the other compressor.
    """
    if compiled and not model.compiled:
        model.compile(**compiled)
    return Compressor(model, **arguments, known=known)
