"""A small network and data in files, and one form in the place of all candidates."""

import keras
import numpy as np

import tfcompress as tfc


def save_net(folder, monkeypatch, *modules):
    """Writes net.keras and data.npz; the modules try no form but 8 bits."""
    forms = {"8 bits": list(tfc.layers.rounding(8).values())}
    for module in modules:
        monkeypatch.setattr(module, "default_candidates", lambda target: forms)
    keras.utils.set_random_seed(0)
    layers = [keras.Input((12,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(3)]
    keras.Sequential(layers).save(folder / "net.keras")
    np.savez(folder / "data.npz", x=np.random.default_rng(0).normal(size=(80, 12)))
    return folder
