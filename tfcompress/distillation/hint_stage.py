"""FitNets' first stage: the student up to its guided layers learns the hints."""

import keras
from keras import ops

from tfcompress.distillation.hints import hint_loss
from tfcompress.distillation.teacher import split


class HintStage(keras.Model):
    """The student up to its guided layers, and the regressors of a `Distiller`."""

    def __init__(self, distiller):
        super().__init__(dtype=distiller.dtype_policy, autocast=False)
        self.student = distiller._student.up_to
        self.regressors = list(distiller.regressors)
        self.built = True
        self._links, self._told = distiller._links, distiller._told
        self._outputs = distiller.student.outputs

    def call(self, inputs, training=False):
        inputs, _ = split(inputs)
        return keras.tree.flatten(self.student(inputs, training=training))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        features = self._told(x, self._outputs)[len(self._outputs) :]
        value = hint_loss(self._links, features, y_pred, sample_weight)
        return sum([value, *(ops.sum(loss) for loss in self.losses)])
