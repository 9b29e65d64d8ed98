"""Fine-tuning of compressed models: which training is kept, and what it gave and cost."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import keras

from tfcompress.planning.examples import Stream
from tfcompress.planning.training.activation_ranges import (
    with_learned_as_fixed,
    with_learned_ranges,
)
from tfcompress.planning.training.kept import KeepZeros, discrete_kernels_frozen
from tfcompress.planning.training.trainer import Trainer, Training
from tfcompress.utils.types import FineTune

RATES = (1e-3, 3e-4, 3e-3)  # tried for one epoch each
LENGTHS = (3, 9)  # epochs that are tried then, while that helps

Tried = tuple[int, float, float]  # epochs, rate, score


class FineTuner:
    """Trains compressed models, and keeps of each what is best on the validation data.

    Args:
        trainer: trains, unless the user does.
        fine_tune: as in `compress`, not 0. With `"auto"` the first model's best training is that of
            the others.
        seed: set before each training.
        score: of a model on the validation data.
        drop: by how much the second of two scores is worse than the first.
        inputs: examples on which the ranges of activations are measured that are learned then;
            None where no file needs them.
    """

    def __init__(
        self,
        trainer: Trainer,
        fine_tune: FineTune,
        seed: int,
        score: Callable[[keras.Model], float],
        drop: Callable[[float, float], float],
        inputs: Any = None,
    ) -> None:
        self.trainer, self.fine_tune, self.seed = trainer, fine_tune, seed
        self.score, self.drop, self.inputs = score, drop, inputs
        self.found = None  # epochs and rate, once they were looked for
        if fine_tune and not callable(fine_tune):
            trainer.check_teaches()

    def __call__(
        self, model: keras.Model, rate: float, alpha: float, temperature: float
    ) -> tuple[keras.Model, Training]:
        """The trained model, or the model itself if that is better, and what the training gave.

        Args:
            model: the compressed model.
            rate: with which a number of epochs begins.
            alpha, temperature: of the `Distiller`.
        """
        begin, before, how = perf_counter(), self.score(model), (0, 0.0)
        kept, best, tried = model, before, []
        for epochs, start in self._settings(rate, tried):
            new = self._trained(model, epochs, start, alpha, temperature)
            score = self.score(new)
            tried.append((epochs, start, score))
            if callable(self.fine_tune) or self.drop(best, score) <= 0:
                kept, best, how = new, score, (epochs, start)
        if self.fine_tune == "auto" and self.found is None:
            self.found = self._best(tried)[:2]
        return kept, Training(before, best, *how, tried, perf_counter() - begin)

    def _settings(self, rate, tried):
        """The epochs and the rate of each training, where those before it tell how to go on."""
        if callable(self.fine_tune):
            yield None, None
        elif self.fine_tune != "auto":
            yield self.fine_tune, rate
        elif self.found is not None:
            yield self.found
        else:
            yield from ((1, rate) for rate in RATES)
            rate = self._best(tried)[1]
            for epochs in LENGTHS:
                yield epochs, rate
                if self._best(tried)[0] != epochs:
                    return

    def _best(self, tried: list[Tried]) -> Tried:
        """The first one of the best."""
        best = tried[0]
        for one in tried[1:]:
            best = one if self.drop(best[2], one[2]) < 0 else best
        return best

    def _trained(self, model, epochs, rate, alpha, temperature):
        keras.utils.set_random_seed(self.seed)
        start = model if self.inputs is None else with_learned_ranges(model, self.inputs)
        if callable(self.fine_tune):
            new = self._by_user(start)
        else:
            new = self.trainer(start, epochs, rate, alpha, temperature)
        return new if self.inputs is None else with_learned_as_fixed(new)

    def _by_user(self, student):
        original, given = self.trainer.original, self.trainer.train
        if isinstance(given, Stream):
            given = given.data
        else:
            given = given if given[2] is not None else given[:2]
        with discrete_kernels_frozen(original, student):
            self.fine_tune(student, self.trainer.teacher, given)
        KeepZeros(original, student).zero()
        return student
