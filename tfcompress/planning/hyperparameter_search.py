"""`search`: optuna over what the formula of a plan cannot see."""

import dataclasses

import numpy as np

from tfcompress.planning.attempts import Work
from tfcompress.planning.compression import Compressed, check_arguments, finished
from tfcompress.utils.checks import whole_number

TILT = 2.0  # the largest bend of the budget, in powers of e, from the first layer to the last
RATES = (1e-4, 5e-3)
TEMPERATURES = (1.0, 6.0)


def search(
    model,
    data,
    budget,
    trials=20,
    *,
    storage=None,
    study_name="tfcompress",
    metric="accuracy",
    fine_tune=3,
    teacher="self",
    validation_data=None,
    target="tflite",
    store="fast",
    loss=None,
    path=None,
) -> Compressed:
    """Searches how a budget is best spent and how the compressed model is best trained.

    Each trial is an attempt of `compress` with another learning rate (1e-4 to 5e-3), weight and
    temperature of the teacher, and `tilt`: the damage that the plan expects of a layer is scaled by
    `exp(tilt * (place - 1/2))`, with places from 0 at the input to 1 at the output, so that early
    or late layers get more of the budget. The first trial is what `compress` does. At the end the
    best trial is done again, which gives the same model.

    Args:
        model, data, budget, metric, fine_tune, teacher, validation_data, target, store, loss, path:
            as in `compress`; `fine_tune` is a number of epochs, at least 1. The metric chooses the
            best trial, so measure the result on data that are not among these.
        trials: how many, those in the storage included.
        storage: URL of a database, `"sqlite:///search.db"`: a search that was cut off goes on from
            there, and several processes can share one. None keeps the trials in memory.
        study_name: of the search in the storage.

    Returns:
        A `Compressed`; `tried` has the best trial only.

    Raises:
        ImportError: the package optuna is missing.
        ValueError: bad arguments.

    Example:

    >>> import keras
    >>> keras.utils.set_random_seed(0)
    >>> hidden = keras.layers.Dense(64, "relu")
    >>> model = keras.Sequential([keras.Input((32,)), hidden, keras.layers.Dense(2)])
    >>> x = np.random.default_rng(0).normal(size=(400, 32))
    >>> made = search(model, x, budget=0.5, trials=2, fine_tune=1)
    >>> made.size <= 0.5 * 4 * model.count_params() + 4096
    True

    Paper: T. Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", 2019.
    """
    try:
        import optuna
        from optuna.trial import TrialState
    except ImportError as error:
        raise ImportError(f"{error}. Run `pip install 'tfcompress[search]'`.") from error
    check_arguments(model, budget, None, fine_tune, teacher)
    if callable(fine_tune) or not fine_tune:
        raise ValueError(f"A search needs `fine_tune` epochs, at least 1. Received: {fine_tune!r}")
    whole_number(trials, "trials")
    work = Work(model, data, metric, fine_tune, teacher, validation_data, target, store, loss)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=study_name,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=0 if storage is None else None),
        )
        if not study.trials:
            study.enqueue_trial({"rate": 1e-3, "alpha": 0.5, "temperature": 2.0, "tilt": 0.0})
        until = optuna.study.MaxTrialsCallback(trials, states=(TrialState.COMPLETE,))
        if len(study.get_trials(states=(TrialState.COMPLETE,))) < trials:
            study.optimize(lambda trial: _attempt(work, budget, trial).value, callbacks=[until])
        best = _attempt(work, budget, optuna.trial.FixedTrial(study.best_params))
    finally:
        optuna.logging.set_verbosity(verbosity)
    return dataclasses.replace(finished(work, best, path), tried=work.tried[-1:])


def _attempt(work, budget, trial):
    rate = trial.suggest_float("rate", *RATES, log=True)
    alpha = trial.suggest_float("alpha", 0.0, 1.0)
    temperature = trial.suggest_float("temperature", *TEMPERATURES)
    tilt = trial.suggest_float("tilt", -TILT, TILT)
    places = np.linspace(-0.5, 0.5, len(work.planner.options))
    bend = dict(zip(work.planner.options, np.exp(tilt * places), strict=True))
    return work.attempt(budget, rate, alpha, temperature, bend)
