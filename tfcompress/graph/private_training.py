"""Private Keras behind training: losses, optimizers, callbacks; one function for each use."""

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import keras
from keras.src.losses.loss import scale_loss_for_distribution, unscale_loss_for_distribution
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.utils.io_utils import print_msg

from tfcompress.utils.types import Loss, Tensor

__all__ = ["LossFunctionWrapper"]


def compiled_loss(model: keras.Model) -> Any:
    """What `compile` was given: the loss and the weights of its outputs; None if not compiled.

    Relies on `Trainer._compile_loss` and `CompileLoss._user_loss_weights`.
    """
    if not getattr(model, "compiled", False) or model._compile_loss is None:
        return None
    return model.loss, model._compile_loss._user_loss_weights


def strategy_scope(model: Any) -> contextlib.AbstractContextManager:
    """The scope of the `tf.distribute` strategy that a model was made in, for what is made of it.

    Relies on `TensorFlowTrainer._distribute_strategy`, None outside of scopes.
    """
    strategy = getattr(model, "_distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def of_replica(loss: Tensor) -> Tensor:
    """The share of one replica in a loss that is a mean over the examples of all replicas.

    Relies on `scale_loss_for_distribution`: the sum over the replicas is then that mean, as with
    the losses of Keras.
    """
    return scale_loss_for_distribution(loss)


def of_all_replicas(share: Tensor) -> Tensor:
    """What `of_replica` was given. Relies on `unscale_loss_for_distribution`."""
    return unscale_loss_for_distribution(share)


def compiled_argument(model: keras.Model, name: str) -> Any:
    """What `compile` was given for an argument, or None.

    Relies on `Trainer._compile_config`.
    """
    if not getattr(model, "compiled", False):
        return None
    return model._compile_config.config.get(name)


def callback_list() -> Any:
    """The `keras.callbacks.CallbackList` that calls the code that calls this; None if none does.

    Relies on `CallbackList.set_model`, which calls that of each of its callbacks.
    """
    frame = sys._getframe(2)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return owner
        frame = frame.f_back
    return None


def gradient_being_applied() -> Any:
    """The first gradient with which the outermost `apply` of an optimizer runs now, or None.

    Relies on the name of the argument, and on `LossScaleOptimizer.apply`, which builds what it
    holds.
    """
    frame, grads = sys._getframe(1), ()
    while frame is not None:
        if frame.f_code.co_name == "apply":
            given = frame.f_locals
            if isinstance(given.get("self"), keras.optimizers.Optimizer):
                grads = given.get("grads")
        frame = frame.f_back
    grads = grads if isinstance(grads, (list, tuple)) else ()
    return next((gradient for gradient in grads if gradient is not None), None)


def trained_by(optimizer: Any) -> list[keras.Variable]:
    """The variables that a built optimizer changes. Relies on `_trainable_variables`."""
    return optimizer._trainable_variables


def moving_averages(optimizer: Any) -> list[tuple]:
    """Pairs of a variable and its moving average, of an optimizer with `use_ema=True`.

    Relies on `Optimizer._model_variables_moving_average`.
    """
    return list(zip(trained_by(optimizer), optimizer._model_variables_moving_average, strict=True))


def loss_function(loss: Loss) -> Callable[..., Any]:
    """The function inside a loss object, such as `keras.losses.mean_squared_error`, or None.

    Relies on `LossFunctionWrapper.fn`.
    """
    return loss.fn if isinstance(loss, LossFunctionWrapper) else None


def print_message(text: str) -> None:
    """Prints a line as `fit` does, to the log where logging is on. Relies on `print_msg`."""
    print_msg(text)
