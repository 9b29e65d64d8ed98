"""The time of a whole file: predicted from its layers, measured where the files run here."""

from typing import Any

import keras
import numpy as np

from tfcompress.planning.latency.layer_times import LayerTimes, file_key
from tfcompress.planning.latency.timing import Timer
from tfcompress.utils.types import Activations, Rest, Sample, Store

BOUNDS = 0.1, 2.0  # of the share of a predicted saving that a whole file shows


class Clock:
    """Times of one model's files with layers in some forms.

    The prediction is the time of the file in which all layers stay, less what each form saves
    alone, times a share: 1 at first, then what a file that was timed has shown.

    Args:
        options: `{layer path: list of Option}`, the last of which leaves the layer as it is.
        times: of the layers, and of the two files.
        files: of the model in float32, and with all layers as they stay.
        store, rest, activations, check: see `to_tflite`.
        timer: times whole files; None where a table was given.

    Attributes:
        float_milliseconds: of the float32 file.
    """

    def __init__(
        self,
        options: Any,
        times: LayerTimes,
        files: list[bytes],
        store: Store,
        rest: Rest,
        timer: Timer | None,
        activations: Activations = "int8",
        check: Sample = None,
    ) -> None:
        self.float_file, self.timer = files[0], timer
        self.terms = store, rest, activations, check
        whole, kept = (times.of_file(file_key(file)) for file in files)
        self.float_milliseconds, self.kept, self.share = whole, kept, 1.0
        self.layers = sum(row[-1].milliseconds for row in options.values())

    def of(self, chosen: Any) -> float:
        """The predicted milliseconds of the file with these options, by layer."""
        return self.kept - self.share * self._saved(chosen)

    def room(self, limit: float) -> float:
        """The sum of the layers' milliseconds at which a file is predicted to keep a limit."""
        return self.layers - (self.kept - limit) / self.share

    def seen(self, model: keras.Model, chosen: Any) -> float:
        """The milliseconds of the file of a model with these options.

        Where files run here it is timed, in turn with the float32 file, and corrects what is
        predicted of others.
        """
        from tfcompress.export import unverified

        if self.timer is None:
            return self.of(chosen)
        as_float = self.terms[1:3] == ("float32", "int8")
        if as_float and all(option.maker is None for option in chosen.values()):
            return self.float_milliseconds  # the same file
        blob = unverified(model, *self.terms)
        before, now = np.asarray(self.timer({"float32": self.float_file, "compressed": blob}))
        measured = self.float_milliseconds * float(np.median(now / before))
        if (saved := self._saved(chosen)) > 0:
            self.share = float(np.clip((self.kept - measured) / saved, *BOUNDS))
        return measured

    def _saved(self, chosen) -> float:
        return self.layers - sum(option.milliseconds for option in chosen.values())
