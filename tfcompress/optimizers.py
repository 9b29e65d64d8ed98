"""Loss-aware quantization: Adam whose step ends in a projection."""

import contextlib
import fnmatch
import warnings
from collections.abc import Callable
from typing import Any, Self

import keras
from keras import ops

from tfcompress.graph.private_keras import has_value
from tfcompress.graph.private_training import gradient_being_applied, trained_by
from tfcompress.project import Projection
from tfcompress.project.output_axes import output_axes, outputs_back, outputs_last
from tfcompress.utils.types import Config

_FIRST_GRADIENT = (
    "ProxNewton leaves out its first gradient, which was taken before the weights were projected. "
    "In eager mode call `optimizer.build(model.trainable_variables)` before the first batch."
)


@keras.saving.register_keras_serializable("tfcompress")
class ProxNewton(keras.optimizers.Adam):
    """Adam on float latents; the model's variables hold their projection, always.

        w <- Adam(w, dL/dv),   v = argmin over the allowed form of sum d (w - v)^2,
        d = sqrt(second moment) + epsilon

    The proximal Newton step of loss-aware binarization and quantization, with Adam's second moment
    as the diagonal of the Hessian. The variables are projected when the optimizer is built, before
    the first batch, and after each update, so that evaluation, saving and export always see the
    discrete kernel. The optimizer owns the latents `w`: clipping, weight decay, constraints and
    gradient accumulation act on them, and they are saved with the optimizer. Each step refines the
    levels of the step before by one alternation.

    Cost: memory for one more copy of each kernel; 14 to 20 passes over the kernels per step.

    Args:
        learning_rate: as in Adam.
        project: one of `tfcompress.project`, or any registered callable `(w, d)` -> like `w`.
        variables: a glob on the paths of the variables to project or on the ends of these, such as
            `"fc*/kernel"`, or a list of globs. The default takes the kernels of all layers that
            are not frozen.
        weighted: False for `d = 1`: binary and ternary weight networks as they were before the
            loss-aware ones.
        adam: further arguments of `keras.optimizers.Adam`, without `use_ema`.

    Raises:
        TypeError: `project` cannot be called.
        ValueError: `use_ema` is given; or `variables` matches nothing, when it is built.

    In eager mode, in `fit` with TensorFlow or in a loop of your own, call
    `optimizer.build(model.trainable_variables)` before the first batch: Keras tells an optimizer
    there of its variables only together with their first gradient, which is then one at the weights
    before they are projected, and is left out, with a warning.

    When something else has set the model's weights (`set_weights`, a callback that restores the
    best ones), call `sync`; otherwise the next step goes on from the old latents. Under the policy
    `mixed_float16` this optimizer is `model.optimizer.inner_optimizer`, and `model.optimizer` is
    what is built. Let the learning rate fall: at a constant one the signs and codes never settle.

    Example:

    >>> import numpy as np, tfcompress as tfc
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model.compile(ProxNewton(0.01, tfc.project.Binary(axis=None)), "mse")
    >>> _ = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    >>> len(np.unique(model.get_weights()[0]))
    2

    Reference: Hou et al., "Loss-aware Binarization of Deep Networks", 2017; Hou, Kwok, "Loss-aware
    Weight Quantization of Deep Networks", 2018. As in the authors' code the gradient at the
    projected weights moves the latents, not the projected weights; their clipping of latents to
    [-1, 1] is left to `kernel_constraint`.
    """

    def __init__(
        self,
        learning_rate: Any,
        project: Callable[..., Any] | None = None,
        variables: str = "*kernel",
        weighted: bool = True,
        **adam: Any,
    ) -> None:
        if adam.get("use_ema"):
            raise ValueError(
                "An average of quantized weights is not quantized, so ProxNewton has no moving "
                "average. Remove `use_ema=True`, and let the learning rate fall instead."
            )
        if project is None:
            raise TypeError(
                "Expected `project`, the form of the weights: "
                "`ProxNewton(1e-3, tfc.project.Ternary())`. Received: none"
            )
        if not callable(project) or isinstance(project, type):
            raise TypeError(
                "Expected `project` to be a projection such as `tfc.project.Ternary()`, called on "
                f"a kernel and its curvature. Received: project={project!r}"
            )
        super().__init__(learning_rate, **adam)
        self.project = project
        self.patterns = [variables] if isinstance(variables, str) else variables
        if not all(isinstance(pattern, str) for pattern in self.patterns):
            raise TypeError(f"Expected `variables` to be a glob or globs. Received: {variables!r}")
        self.weighted = bool(weighted)
        self._places, self._axes, self._latents, self._levels = [], [], [], []
        # For the values of variables that TensorFlow makes while it traces the first step. It runs
        # another trace, which is made once they have their values.
        self._waits = False
        self._early = None  # a gradient that is older than the projection

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        places = [i for i, v in enumerate(variables) if self._takes(v)]
        if not places:
            raise ValueError(
                f"No variable matches {list(self.patterns)}. The trainable variables are: "
                f"{', '.join(v.path for v in variables)}"
            )
        self._places = places
        self._early = None if _in_graph() else gradient_being_applied()
        with _outside_graphs():
            super().build(variables)
            self._waits = not all(map(has_value, variables))
            self._start([variables[i] for i in places])

    def _start(self, chosen):
        """Makes the latents of variables, and projects these."""
        by_output = getattr(self.project, "axis", None) == -1
        self._axes = output_axes(chosen) if by_output else [(-1,)] * len(chosen)
        values = [ops.zeros(v.shape) if self._waits else v for v in chosen]
        self._latents = [self._add(*pair, "latent") for pair in zip(values, chosen, strict=True)]
        if isinstance(self.project, Projection):
            fits = [self._fit(k) for k in range(len(chosen))]
            self._levels = [self._add(*pair, "levels") for pair in zip(fits, chosen, strict=True)]
        if not self._waits:
            self._project(range(len(chosen)))

    def _takes(self, variable):
        ends = f"/{variable.path}"  # so that a glob on an end matches whole names only
        return any(fnmatch.fnmatchcase(ends, f"*/{pattern}") for pattern in self.patterns)

    def _add(self, value, reference, name):
        """An optimizer variable that starts as a copy of `value`."""
        return self.add_variable(
            value.shape,
            initializer=lambda shape, dtype: ops.copy(ops.convert_to_tensor(value, dtype)),
            dtype=reference.dtype,
            name=f"{reference.path.replace('/', '_')}_{name}",
        )

    @property
    def latents(self) -> list[keras.Variable]:
        """The float weights behind the projected variables, in the order of the model's."""
        return list(self._latents)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Takes a step on the latents in the variables' place, then projects."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            self.build(trainable_variables)
        early, self._early = self._early, None
        if early is not None and early is gradient_being_applied():
            warnings.warn(_FIRST_GRADIENT, stacklevel=2)
            return
        if self._waits:
            if not all(map(has_value, trained_by(self))):
                super().apply(grads, trainable_variables)
                return
            with _outside_graphs():
                self._take()
            self._waits = False
        free = {id(v) for v in trainable_variables or trained_by(self)}  # not those frozen since
        chosen = [k for k, i in enumerate(self._places) if id(trained_by(self)[i]) in free]
        pairs = [(trained_by(self)[self._places[k]], self._latents[k]) for k in chosen]
        # Adam steps on what it finds in the variables: the latents take their place meanwhile.
        for variable, latent in pairs:
            variable.assign(latent)
        super().apply(grads, trainable_variables)
        for variable, latent in pairs:
            latent.assign(variable)
        self._refine(chosen)
        self._project(chosen)

    def sync(self, model: keras.Model) -> None:
        """Makes the model's weights, which something else has set, the latents, and projects them.

        Adam's moments do not change. Before the first step this does nothing: that step begins with
        the model's weights anyway.

        Args:
            model: the model that this optimizer trains.

        Raises:
            ValueError: it does not train this model.
        """
        if not self.built:
            return
        known = {id(v) for v in model.trainable_variables}
        if not all(id(v) in known for v in trained_by(self)):
            raise ValueError(
                "This optimizer trains another model. Call `sync` with the model whose `optimizer` "
                f"it is. Received: model={model!r}"
            )
        self._take()

    def _take(self):
        for place, latent in zip(self._places, self._latents, strict=True):
            latent.assign(trained_by(self)[place])
        for k, levels in enumerate(self._levels):
            levels.assign(self._fit(k))
        self._project(range(len(self._places)))

    def _matrix(self, k):
        """A latent as the projection takes it, with the outputs along the last axis."""
        return outputs_last(self._latents[k].value, self._axes[k])

    def _fit(self, k):
        w = self._matrix(k)
        return self.project.fit(w, ops.ones_like(w))

    def _curvature(self, k):
        """What the projection of a latent is weighted with."""
        if not self.weighted:
            return ops.ones_like(self._matrix(k))
        moments = self._velocity_hats if self.amsgrad else self._velocities
        moment = outputs_last(moments[self._places[k]].value, self._axes[k])
        return ops.sqrt(moment) + self.epsilon

    def _refine(self, chosen):
        """One alternation of the levels, in the steps that change the latents.

        While gradients are accumulated the latents stand still.
        """
        if not self._levels or not chosen:
            return
        steps, before = self.gradient_accumulation_steps, [self._levels[k].value for k in chosen]
        if steps:
            due = ops.equal(self._iterations % steps, 0)
            after = ops.cond(due, lambda: self._refined(chosen, before), lambda: before)
        else:
            after = self._refined(chosen, before)
        for k, value in zip(chosen, after, strict=True):
            self._levels[k].assign(value)

    def _refined(self, chosen, before):
        return [
            self.project.refine(self._matrix(k), self._curvature(k), levels)
            for k, levels in zip(chosen, before, strict=True)
        ]

    def _project(self, chosen):
        # Levels that are kept from step to step spare most of the work of fitting them anew.
        for k in chosen:
            if self._levels:
                value = self.project.nearest(self._matrix(k), self._levels[k].value)
            else:
                value = self.project(self._matrix(k), self._curvature(k))
            value = outputs_back(value, self._latents[k].shape, self._axes[k])
            trained_by(self)[self._places[k]].assign(value)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        if self.built and len(store.keys()) != len(self.variables):
            self._take()  # saved before the first step: the latents are those of the weights

    def get_config(self) -> Config:
        project = keras.saving.serialize_keras_object(self.project)
        own = {"project": project, "variables": list(self.patterns), "weighted": self.weighted}
        return super().get_config() | own

    @classmethod
    def from_config(cls, config: Config, custom_objects: dict[str, Any] | None = None) -> Self:
        project = keras.saving.deserialize_keras_object(config["project"], custom_objects)
        return super().from_config(config | {"project": project}, custom_objects)


def _in_graph():
    """Whether TensorFlow traces a graph, whose gradients are computed when it runs."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.executing_eagerly()


def _outside_graphs():
    """A context in which TensorFlow assigns at once.

    `fit` builds the optimizer while it traces the first step. A value that is assigned there to a
    variable that is made there would be lost.
    """
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()
