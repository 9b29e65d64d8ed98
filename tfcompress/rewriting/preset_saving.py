"""KerasHub's presets of models with replaced layers.

KerasHub makes the model of a preset by its class, whatever layers it had when it was saved. So a
preset of a model with replaced layers also holds their configs, and its class bears a name that
only `from_preset` of this package knows: KerasHub alone refuses it, and cannot read the weights of
replaced layers into ordinary ones.
"""

import json
from pathlib import Path
from typing import Any

import keras

from tfcompress.graph.addresses import addresses
from tfcompress.utils.writers import write_file

BACKBONE, TASK = "config.json", "task.json"  # as KerasHub names these files
PREFIX = "tfcompress>"  # before the registered name of a class with replaced parts
SWAPPED = "tfcompress>Swapped"


def save_preset(model: Any, preset_dir: str | Path, *args, **kwargs) -> None:
    """KerasHub's `save_to_preset` for a backbone or task with replaced parts.

    Args:
        model: its class is one of `swapped_class`.
        preset_dir: the folder.
        *args: as KerasHub's.
        **kwargs: as KerasHub's.
    """
    model._plain.save_to_preset(model, preset_dir, *args, **kwargs)
    file = Path(preset_dir) / (TASK if hasattr(model, "backbone") else BACKBONE)
    config = _ordinary(json.loads(file.read_text()))
    there = dict(addresses(model, model._replaced_parts))
    config["registered_name"] = PREFIX + config["registered_name"]
    config["replaced_parts"] = {
        address: keras.saving.serialize_keras_object(there[address])
        for address in model._replaced_parts
    }
    write_file(file, json.dumps(config, indent=4))


def _ordinary(value):
    """A saved config with the ordinary owners in place of those with replaced parts."""
    if isinstance(value, list):
        return [_ordinary(one) for one in value]
    if not isinstance(value, dict):
        return value
    if value.get("registered_name") == SWAPPED:
        return _ordinary(value["config"]["composite"])
    return {key: _ordinary(one) for key, one in value.items()}
