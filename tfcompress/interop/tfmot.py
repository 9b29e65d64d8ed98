"""Trains Keras 3 models with tensorflow_model_optimization, which knows Keras 2 alone.

That package and tf_keras are imported when a function here is called, never before.
"""

from collections.abc import Sequence
from typing import Any

import keras

from tfcompress.graph.private_training import compiled_argument
from tfcompress.interop.configs import translate
from tfcompress.interop.models import from_tf_keras as from_tf_keras
from tfcompress.interop.models import to_tf_keras as to_tf_keras
from tfcompress.interop.packages import load
from tfcompress.utils.types import Loss


class Training:
    """A model of tf_keras in training.

    Attributes:
        tf_keras_model: the model with its wrappers, compiled.
    """

    def __init__(self, model: Any, callbacks: Sequence[Any] = ()) -> None:
        self.tf_keras_model, self._callbacks = model, list(callbacks)

    def fit(self, *args: Any, callbacks: Sequence[Any] = (), **kwargs: Any) -> Any:
        """Calls `fit` of tf_keras with the callbacks that the method needs.

        Returns:
            The `History` of tf_keras.
        """
        callbacks = [*self._callbacks, *(callbacks or ())]
        return self.tf_keras_model.fit(*args, callbacks=callbacks, **kwargs)

    def model(self) -> keras.Model:
        """The model in its present state, in Keras 3, without wrappers and not compiled."""
        return from_tf_keras(self.tf_keras_model)


def prune(
    model: keras.Model,
    optimizer: Any = None,
    loss: Loss = None,
    metrics: Any = None,
    **arguments: Any,
) -> Training:
    """Prepares `tfmot.sparsity.keras.prune_low_magnitude` of a Keras 3 model.

        training = tfc.interop.tfmot.prune(model, pruning_schedule=schedule)
        training.fit(x, y, epochs=2)
        pruned = training.model()

    Compressed layers are pruned in what they store: factors and banks. `tfcompress.callbacks.Prune`
    does the same without the other package.

    Args:
        model: see `to_tf_keras`. It stays as it is.
        optimizer, loss, metrics: as in `compile`, of either Keras version; by default those with
            which the model was compiled. The state of its optimizer is not copied.
        **arguments: the arguments of `prune_low_magnitude`.

    Raises:
        ValueError: a layer cannot cross, or the other package refuses it; or there is no loss.
        ImportError: tf_keras or tensorflow_model_optimization is missing.
    """
    packages = load()
    wrapped = packages.tfmot.sparsity.keras.prune_low_magnitude(to_tf_keras(model), **arguments)
    _compile(wrapped, model, optimizer, loss, metrics)
    return Training(wrapped, [packages.tfmot.sparsity.keras.UpdatePruningStep()])


def cluster(
    model: keras.Model,
    optimizer: Any = None,
    loss: Loss = None,
    metrics: Any = None,
    **arguments: Any,
) -> Training:
    """Prepares `tfmot.clustering.keras.cluster_weights` of a Keras 3 model.

    Compressed layers are clustered in what they store, factors and banks.

    Args:
        model, optimizer, loss, metrics: see `prune`.
        **arguments: the arguments of `cluster_weights`: `number_of_clusters` and others.

    Raises: see `prune`.
    """
    package = load().tfmot.clustering.keras
    wrapped = package.cluster_weights(to_tf_keras(model), **arguments)
    _compile(wrapped, model, optimizer, loss, metrics)
    return Training(wrapped)


def quantize(
    model: keras.Model, optimizer: Any = None, loss: Loss = None, metrics: Any = None
) -> Training:
    """Prepares quantization-aware training with the 8-bit scheme of tensorflow_model_optimization.

    The model that comes back has weights on int8 levels and `tfcompress.layers.FakeQuant` layers
    with the learned ranges; `to_tflite(model, activations="static_int8", check=x)` writes these. A
    kernel that has zeros keeps them, one of few values keeps its clusters. Compressed layers learn
    the range of their outputs, and round what they offer to pruning.

    Args:
        model, optimizer, loss, metrics: see `prune`. Without nested models.

    Raises: see `prune`. RuntimeError: the scheme has no such layer; the message names it.
    """
    from tfcompress.interop.quantize_scheme import Scheme

    package = load().tfmot.quantization.keras
    annotated = package.quantize_annotate_model(to_tf_keras(model))
    wrapped = package.quantize_apply(annotated, Scheme())
    _compile(wrapped, model, optimizer, loss, metrics)
    return Training(wrapped)


def _compile(wrapped, model, optimizer, loss, metrics):
    """Compiles with the given arguments, or with those of the Keras 3 model by default."""
    found = {}
    if model.compiled:
        names = ("loss", "loss_weights", "metrics", "weighted_metrics")
        found = {name: compiled_argument(model, name) for name in names}
        optimizer = model.optimizer if optimizer is None else optimizer
    elif loss is None:
        raise ValueError(
            f"Model {model.name!r} is not compiled. Give `optimizer` and `loss`, or compile it."
        )
    if loss is not None:
        found["loss"] = loss
    if metrics is not None:
        found["metrics"] = metrics
    tf_keras = load().tf_keras
    optimizer = "rmsprop" if optimizer is None else optimizer
    wrapped.compile(optimizer=translate(optimizer, tf_keras), **translate(found, tf_keras))
