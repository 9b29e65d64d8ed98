import json
import subprocess
import sys

import keras
import models_of_all_kinds as kinds
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.interop.keras_hub import from_preset

hub = pytest.importorskip("keras_hub").models
KINDS = {
    "gpt2": hub.GPT2CausalLM,
    "bert": hub.BertTextClassifier,
    "resnet": hub.ResNetImageClassifier,
}


def small(name):
    if name == "resnet":
        backbone, x = kinds.resnet(hub)
        model = hub.ResNetImageClassifier(backbone, 3, preprocessor=None)
    else:
        model, x = kinds.HUB[name](hub)
    return tfc.swap(model, tfc.layers.rounding(4)), x


def kinds_in(model):
    return [type(layer) for layer, _ in tfc.walk(model).values()]


@pytest.mark.parametrize("name", KINDS)
def test_a_preset_of_a_task_with_replaced_layers_is_read_back(name, tmp_path):
    model, x = small(name)
    model.save_to_preset(tmp_path)
    same = from_preset(KINDS[name], tmp_path, preprocessor=None)
    assert type(same) is type(model)
    assert isinstance(same, KINDS[name])
    assert kinds_in(same) == kinds_in(model)
    np.testing.assert_array_equal(same(x), model(x))


def test_a_preset_of_a_backbone_is_read_in_a_new_process(tmp_path):
    model, x = small("gpt2")
    model.backbone.save_to_preset(tmp_path)
    np.savez(tmp_path / "x.npz", **x)
    np.save(tmp_path / "y.npy", model.backbone(x))
    code = """
import sys, numpy as np, tfcompress as tfc, keras_hub
folder = sys.argv[1]
backbone = tfc.interop.keras_hub.from_preset(keras_hub.models.GPT2Backbone, folder)
x = dict(np.load(folder + "/x.npz"))
np.testing.assert_array_equal(backbone(x), np.load(folder + "/y.npy"))
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_what_was_read_can_be_saved_again_whole_and_in_part(tmp_path):
    model, x = small("gpt2")
    model.save_to_preset(tmp_path / "once")
    read = from_preset(hub.GPT2CausalLM, tmp_path / "once")
    read.save_to_preset(tmp_path / "twice")
    again = from_preset(hub.GPT2CausalLM, tmp_path / "twice")
    np.testing.assert_array_equal(again(x), model(x))
    read.backbone.save(tmp_path / "backbone.keras")
    backbone = keras.models.load_model(tmp_path / "backbone.keras")
    np.testing.assert_array_equal(backbone(x), model.backbone(x))
    block = next(layer for layer in read.backbone.layers if "transformer" in layer.name)
    start = keras.Input((12, 16))
    part = keras.Model(start, block(start))
    part.save(tmp_path / "part.keras")
    z = np.random.default_rng(0).normal(size=(2, 12, 16)).astype("float32")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "part.keras")(z), part(z))


def test_keras_hub_alone_refuses_the_preset(tmp_path):
    small("gpt2")[0].save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="no class registered with Keras for tfcompress>"):
        hub.GPT2CausalLM.from_preset(str(tmp_path))
    with pytest.raises(ValueError, match="no class registered with Keras for tfcompress>"):
        hub.GPT2Backbone.from_preset(str(tmp_path))


def test_replaced_layers_take_the_policy_that_is_asked_for(tmp_path):
    model, _ = small("gpt2")
    model.save_to_preset(tmp_path)
    half = from_preset(hub.GPT2CausalLM, tmp_path, dtype="bfloat16")
    policies = {layer.compute_dtype for layer, _ in tfc.walk(half.backbone).values()}
    assert policies == {"bfloat16"}


def test_an_ordinary_preset_is_read_by_keras_hub(tmp_path):
    model, x = kinds.HUB["gpt2"](hub)
    model.save_to_preset(tmp_path)
    same = from_preset(hub.GPT2CausalLM, tmp_path)
    np.testing.assert_array_equal(same(x), model(x))
    random = from_preset(hub.GPT2CausalLM, tmp_path, load_weights=False)
    assert np.abs(np.asarray(random(x)) - np.asarray(model(x))).max() > 0


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder with a `config.json`"):
        from_preset(hub.GPT2Backbone, tmp_path / "absent")
    small("bert")[0].save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=r"keeps its number of classes.*num_classes=5"):
        from_preset(hub.BertTextClassifier, tmp_path, num_classes=5)
    with pytest.raises(ValueError, match=r"not a subclass|is not"):
        from_preset(hub.GPT2Backbone, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["registered_name"].startswith("tfcompress>keras_hub>")
