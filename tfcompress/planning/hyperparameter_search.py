"""`search`: tunes how a budget is spread over the layers and how the model is trained."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tfcompress.planning.attempts import Compressor
from tfcompress.planning.compression import Compressed, check_arguments, finish
from tfcompress.utils.checks import whole_number
from tfcompress.utils.types import Data, Loss, Path, Store, Target

LARGEST_TILT = 2.0  # logarithm of the factor between the damage of the last and the first layer
LEARNING_RATES = (1e-4, 5e-3)
TEMPERATURES = (1.0, 6.0)


def search(
    model: keras.Model,
    data: Data,
    budget: float,
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
) -> Compressed:
    """Searches for the best spread of a budget over the layers and the best way to train.

    Each trial is a run of `compress` with other values of the learning rate (1e-4 to 5e-3), the
    weight of the teacher, its temperature, and `tilt`. The tilt gives early or late layers more of
    the budget: the damage that the plan expects in a layer is multiplied by
    `exp(tilt * (position - 1/2))`, where the position is 0 at the input and 1 at the output. The
    first trial has the values of `compress`. At the end the best trial is run again, which gives
    the same model.

    Args:
        model, data, budget, metric, fine_tune, teacher, validation_data, target, store, loss, path:
            as in `compress`; `fine_tune` is a number of epochs, at least 1. The best trial is the
            one with the best metric on the validation data, so evaluate the result on others.
        trials: number of trials, those in the storage included.
        storage: URL of a database, such as `"sqlite:///search.db"`, from which a search that was
            interrupted continues, and which several processes can share. None keeps the trials in
            memory.
        study_name: name of the search in the storage.

    Returns:
        A `Compressed`, whose `tried` lists the best trial only.

    Raises:
        ImportError: the package optuna is not installed.
        ValueError: an argument is out of range.

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
    check_arguments(model, budget, None, fine_tune, teacher)
    if callable(fine_tune) or not fine_tune:
        raise ValueError(f"A search needs `fine_tune` epochs, at least 1. Received: {fine_tune!r}")
    whole_number(trials, "trials")
    compressor = Compressor(
        model, data, metric, fine_tune, teacher, validation_data, target, store, loss
    )
    best = _best_attempt(compressor, budget, trials, storage, study_name)
    return dataclasses.replace(finish(compressor, best, path), tried=compressor.tried[-1:])


def _best_attempt(compressor, budget, trials, storage, study_name):
    import optuna
    from optuna.trial import TrialState

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=study_name,
            load_if_exists=True,
            direction="maximize",
            # A shared study needs a random seed, or all processes would try the same values.
            sampler=optuna.samplers.TPESampler(seed=0 if storage is None else None),
        )
        if not study.trials:
            study.enqueue_trial({"rate": 1e-3, "alpha": 0.5, "temperature": 2.0, "tilt": 0.0})
        until = optuna.study.MaxTrialsCallback(trials, states=(TrialState.COMPLETE,))
        if len(study.get_trials(states=(TrialState.COMPLETE,))) < trials:
            study.optimize(lambda trial: _score(compressor, budget, trial), callbacks=[until])
        return _attempt(compressor, budget, optuna.trial.FixedTrial(study.best_params))
    finally:
        optuna.logging.set_verbosity(verbosity)


def _score(compressor, budget, trial):
    """What a trial maximizes."""
    return compressor.quality.sign * _attempt(compressor, budget, trial).score


def _attempt(compressor, budget, trial):
    rate = trial.suggest_float("rate", *LEARNING_RATES, log=True)
    alpha = trial.suggest_float("alpha", 0.0, 1.0)
    temperature = trial.suggest_float("temperature", *TEMPERATURES)
    tilt = trial.suggest_float("tilt", -LARGEST_TILT, LARGEST_TILT)
    paths = list(compressor.planner.options)
    factors = np.exp(tilt * np.linspace(-0.5, 0.5, len(paths)))
    return compressor.attempt(
        budget, rate, alpha, temperature, dict(zip(paths, factors, strict=True))
    )
