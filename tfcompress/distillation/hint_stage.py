"""FitNets' first stage: the student up to its guided layers learns the hints."""

from typing import Any

import keras
from keras import ops

from tfcompress.distillation.hints import hint_loss
from tfcompress.distillation.teacher import split
from tfcompress.utils.types import Tensor


class HintStage(keras.Model):
    """The student up to its guided layers, and the regressors of a `Distiller`."""

    def __init__(self, distiller: Any) -> None:
        super().__init__(dtype=distiller.dtype_policy, autocast=False)
        self.student = distiller._student.up_to
        self.regressors = list(distiller.regressors)
        self.built = True
        self._links, self._told = distiller._links, distiller._told
        self._outputs = distiller.student.outputs

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        inputs, _ = split(inputs)
        return keras.tree.flatten(self.student(inputs, training=training))

    def compute_loss(
        self,
        x: Tensor = None,
        y: Tensor = None,
        y_pred: Tensor = None,
        sample_weight: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        features = self._told(x, self._outputs)[len(self._outputs) :]
        value = hint_loss(self._links, features, y_pred, sample_weight)
        return sum([value, *(ops.sum(loss) for loss in self.losses)])
