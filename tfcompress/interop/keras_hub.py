"""KerasHub's presets of models with replaced layers, read back."""

import json
from pathlib import Path
from typing import Any

import keras

from tfcompress.graph.addresses import addresses
from tfcompress.rewriting.preset_saving import BACKBONE, PREFIX, TASK
from tfcompress.rewriting.saving import give_parts

# Weights in a preset, as KerasHub names them: of the backbone, those in several files, the task's.
_WEIGHTS, _SHARDED, _TASK_WEIGHTS = "model.weights.h5", "model.weights.json", "task.weights.h5"


def from_preset(
    kind: type, preset_dir: str | Path, load_weights: bool = True, **kwargs: Any
) -> Any:
    """Reads a KerasHub preset of a model with replaced layers, as `kind.from_preset` does.

    A preset without replaced layers is read by KerasHub as it stands.

    Args:
        kind: a class of KerasHub: of backbones, as `keras_hub.models.GPT2Backbone`, or of tasks, as
            `keras_hub.models.GPT2CausalLM`.
        preset_dir: a folder written by `save_to_preset`. Handles of hubs are not taken: download
            the folder first.
        load_weights: whether the weights are read; else they are random.
        **kwargs: as those of `kind.from_preset`, except `num_classes` where layers were replaced.
            A replaced layer takes the dtype policy of the layer in whose place it stands.

    Raises:
        ValueError: there is no such folder, or `num_classes` is given.

    Example:

    ```python
    small = tfc.swap(causal_lm, tfc.layers.rounding(4))
    small.save_to_preset("gpt2_4_bits")
    small = tfc.interop.keras_hub.from_preset(keras_hub.models.GPT2CausalLM, "gpt2_4_bits")
    ```
    """
    folder = Path(preset_dir)
    if not (folder / BACKBONE).is_file():
        raise ValueError(
            "The preset must be a folder with a `config.json`, written by `save_to_preset`. "
            f"Received: {str(preset_dir)!r}"
        )
    saved = [_saved(folder / name) for name in (BACKBONE, TASK)]
    if not any("replaced_parts" in config for config in saved):
        return kind.from_preset(str(folder), load_weights=load_weights, **kwargs)
    if "num_classes" in kwargs:
        raise ValueError(
            "A preset with replaced layers keeps its number of classes: a replaced layer cannot "
            f"take another. Received: num_classes={kwargs['num_classes']}"
        )
    with keras.saving.custom_object_scope(_plain_classes(saved)):
        model = kind.from_preset(str(folder), load_weights=False, **kwargs)
    backbone = getattr(model, "backbone", model)
    for owner, config in zip((backbone, model), saved, strict=True):
        if "replaced_parts" in config and (owner is model or hasattr(model, "backbone")):
            _place(owner, config["replaced_parts"])
    if load_weights:
        weights = folder / _WEIGHTS
        backbone.load_weights(weights if weights.is_file() else folder / _SHARDED)
        if model is not backbone and (folder / _TASK_WEIGHTS).is_file():
            model.load_task_weights(folder / _TASK_WEIGHTS)
    return model


def _saved(file):
    return json.loads(file.read_text()) if file.is_file() else {}


def _plain_classes(saved):
    """The classes of KerasHub by the names under which `save_preset` has written them."""
    names = [config["registered_name"] for config in saved if "replaced_parts" in config]
    plain = {name: keras.saving.get_registered_object(name.removeprefix(PREFIX)) for name in names}
    absent = [name.removeprefix(PREFIX) for name, kind in plain.items() if kind is None]
    if absent:
        raise ValueError(
            f"Import the module that registers {absent[0]!r} before the preset is read: no class "
            "has this name yet."
        )
    return plain


def _place(owner, parts):
    """Puts replaced parts in their places, each with the policy of the layer that it replaces."""
    there = dict(addresses(owner, parts))
    for address, part in parts.items():
        if address in there:
            policy = keras.dtype_policies.serialize(there[address].dtype_policy)
            part["config"]["dtype"] = policy
    give_parts(owner, parts)
