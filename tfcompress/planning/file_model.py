"""A .tflite file that is called like the model that it was made of."""

from typing import Any

import keras
import numpy as np

from tfcompress.export.exported import exported
from tfcompress.graph.private_keras import mask_of, with_mask
from tfcompress.graph.suffix import structured_outputs
from tfcompress.tflite.runner import Runner
from tfcompress.utils.arrays import to_numpy


class FileModel:
    """Gives the outputs of a file, in the structure and with the masks of its model's.

    Args:
        blob: the file.
        model: the model.
    """

    def __init__(self, blob: bytes, model: keras.Model) -> None:
        self.runner, self.model, self.structure = Runner(blob), model, None
        self.masked = False

    def __call__(self, x: Any, training: bool = False) -> Any:
        inputs = exported(self.model, x).flat(x)
        outputs = self.runner([to_numpy(array) for array in inputs])
        if self.structure is None or self.masked:
            self.structure = structured_outputs(self.model, x)
            masks = [mask_of(z) for z in keras.tree.flatten(self.structure)]
            self.masked = any(mask is not None for mask in masks)
            pairs = zip(outputs, masks, strict=True)
            outputs = [y if mask is None else with_mask(np.asarray(y), mask) for y, mask in pairs]
        return keras.tree.pack_sequence_as(self.structure, outputs)
