"""The one place that imports tf_keras and tensorflow_model_optimization."""

import functools
import os
from types import SimpleNamespace

import keras

LEGACY_KERAS = "TF_USE_LEGACY_KERAS"


@functools.cache
def load() -> SimpleNamespace:
    """Imports both packages and restores the environment of the process.

    Returns:
        `tf`, `tf_keras`, `tfmot`, and the classes of wrappers, which tfmot does not export.

    Raises:
        ImportError: one of them is not installed.
        ValueError: Keras runs on another backend than TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "tf_keras runs on TensorFlow: save the model, and go on in a process with "
            f"KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()!r}"
        )
    import tensorflow as tf

    _ = tf.keras.layers  # loads the Keras of the process before tfmot sets the variable
    found = os.environ.get(LEGACY_KERAS)
    try:
        return _load_packages(tf)
    except ImportError as error:
        raise ImportError(
            "Working with tensorflow_model_optimization needs it and tf_keras: "
            f"pip install tensorflow-model-optimization tf-keras. {error}"
        ) from error
    finally:
        os.environ.pop(LEGACY_KERAS, None)  # tfmot sets it
        if found is not None:
            os.environ[LEGACY_KERAS] = found


def _load_packages(tf):
    import tensorflow_model_optimization as tfmot
    import tf_keras
    from tensorflow_model_optimization.python.core.clustering.keras import (
        cluster_wrapper,
        clusterable_layer,
    )
    from tensorflow_model_optimization.python.core.quantization.keras import (
        quantize_annotate,
        quantize_aware_activation,
        quantize_layer,
        quantize_wrapper,
    )
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        prunable_layer,
        pruning_wrapper,
    )

    return SimpleNamespace(
        tf=tf,
        tf_keras=tf_keras,
        tfmot=tfmot,
        PrunableLayer=prunable_layer.PrunableLayer,
        ClusterableLayer=clusterable_layer.ClusterableLayer,
        PruneLowMagnitude=pruning_wrapper.PruneLowMagnitude,
        ClusterWeights=cluster_wrapper.ClusterWeights,
        QuantizeWrapper=quantize_wrapper.QuantizeWrapper,
        QuantizeAnnotate=quantize_annotate.QuantizeAnnotate,
        QuantizeLayer=quantize_layer.QuantizeLayer,
        QuantizeAwareActivation=quantize_aware_activation.QuantizeAwareActivation,
        NoOpActivation=quantize_aware_activation.NoOpActivation,
    )
