"""The trials of a search, in memory or in a storage that several processes share."""

import math
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.planning.attempts import Compressor
from tfcompress.planning.examples import Stream
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.progress import showing
from tfcompress.utils.workers import as_done

FIRST = {"rate": 1e-3, "alpha": 0.5, "temperature": 2.0, "tilt": 0.0}  # the values of `compress`
LARGEST_TILT = 2.0  # logarithm of the factor between the damage of the last and the first layer
LEARNING_RATES = (1e-4, 5e-3)
TEMPERATURES = (1.0, 6.0)
TRIALS_AT_ONCE = 4  # whose values are drawn before any of them has a score


def facts_of(asked: dict[str, Any], compressor: Compressor, fine_tune: int) -> dict[str, Any]:
    """What tells this search from others in a storage."""
    facts = {name: repr(value) for name, value in asked.items()}
    facts |= {"metric": compressor.quality.name, "fine_tune": fine_tune, "store": compressor.store}
    train, given, teacher = compressor.train, compressor.arguments, compressor.teacher
    held = (train.count, train.steps) if isinstance(train, Stream) else train
    return facts | {
        "weights": _weights(compressor.model),
        "teacher": "self" if teacher is compressor.model else _weights(teacher),
        "data": _checksum(held),
        "validation data": _checksum(given["validation_data"]),
        "batch_size": given["batch_size"],
        "loss": repr(keras.tree.map_structure(_loss_name, compressor.loss)),
    }


def _weights(model) -> int | None:
    return None if model is None else _checksum(model.get_weights())


def _checksum(arrays) -> int:
    """A number that tells nested arrays, texts and Nones from others."""
    found = 0
    for array in keras.tree.flatten(arrays):
        array = np.ascontiguousarray("" if array is None else to_numpy(array))
        found = zlib.crc32(str(array.tolist()).encode() if array.dtype == object else array, found)
    return found


def _loss_name(loss) -> str:
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", loss))


def best_values(
    submit: Callable,
    beside: bool,
    trials: int,
    storage: Any,
    study_name: str,
    facts: dict[str, Any],
) -> dict[str, float]:
    """The values of the best trial.

    Args:
        submit: called as `submit(name, values)`; gives a task whose result is the score.
        beside: whether several tasks run beside each other.
        trials, storage, study_name: see `search`.
        facts: see `facts_of`.

    Raises:
        ValueError: the storage holds another search; no trial has a score.
    """
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
            sampler=optuna.samplers.TPESampler(
                seed=0 if storage is None else None, constant_liar=True
            ),
        )
        _check_same_search(study, facts)
        if not any(map(_is_first, study.trials)):
            study.enqueue_trial(FIRST)
        at_once = 1 if storage is not None and not beside else TRIALS_AT_ONCE

        def complete():
            return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

        with showing() as display, display.loop("Trials", trials) as shown:
            while (count := trials - len(complete())) > 0:
                _run(study, min(count, at_once), submit, beside, shown)
        # Of equals the first one, whichever was done first.
        best = max(complete(), key=lambda trial: (trial.value, -trial.number))
        if best.value == -math.inf:
            raise ValueError("The metric was NaN in each trial: look at it, and at the data.")
        return best.params
    finally:
        optuna.logging.set_verbosity(verbosity)


def _check_same_search(study, facts):
    """Raises if the trials of a study are those of another search, whose scores say nothing here.

    The first search leaves what it was asked for in the study.
    """
    known = study.user_attrs
    if other := [name for name, value in facts.items() if known.get(name, value) != value]:
        raise ValueError(
            f"The storage has another search of this name, with {other} of its own. Give another "
            "`study_name` or `storage`."
        )
    for name in facts.keys() - known.keys():
        study.set_user_attr(name, facts[name])


def _is_first(trial) -> bool:
    """Whether a trial has the values of `compress`, and was not broken off."""
    known = trial.system_attrs.get("fixed_params") or trial.params  # before it begins, and later
    return known == FIRST and trial.state.name != "FAIL"


def _run(study, count, submit, beside, shown):
    """Runs some trials at a time; each is in the storage as soon as it is done."""
    from optuna.trial import TrialState

    asked = [(trial, _values(trial)) for trial in (study.ask() for _ in range(count))]
    try:
        _score(study, asked, submit, beside, shown)
    except BaseException:
        for trial, _ in asked:  # another process would take them for running ones
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        raise


def _score(study, asked, submit, beside, shown):
    """Runs trials, one by one or beside each other."""
    if not beside:
        for trial, values in asked:
            _tell(study, trial, submit("", values), shown)
        return
    tasks = {submit(f"Trial {trial.number}", values): trial for trial, values in asked}
    for task in as_done(tasks):
        _tell(study, tasks[task], task, shown)


def _tell(study, trial, task, shown):
    """Hands a score to the study, for which NaN is no number."""
    score = task.result()
    study.tell(trial, -math.inf if math.isnan(score) else score)
    shown.done(f"best {abs(study.best_value):.4f}")


def _values(trial) -> dict[str, float]:
    return {
        "rate": trial.suggest_float("rate", *LEARNING_RATES, log=True),
        "alpha": trial.suggest_float("alpha", 0.0, 1.0),
        "temperature": trial.suggest_float("temperature", *TEMPERATURES),
        "tilt": trial.suggest_float("tilt", -LARGEST_TILT, LARGEST_TILT),
    }
