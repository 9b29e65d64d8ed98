"""Data named on the command line."""

import os
import pickle
import sys

import keras
import numpy as np
import pytest

from tfcompress.cli.data import load_data


def test_an_npz_file(tmp_path):
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 1])
    np.savez(tmp_path / "a.npz", x=x, y=y)
    np.savez(tmp_path / "b.npz", x=x)
    loaded = load_data(tmp_path / "a.npz")
    assert np.array_equal(loaded[0], x) and np.array_equal(loaded[1], y)
    assert len(load_data(str(tmp_path / "b.npz"))) == 1
    np.savez(tmp_path / "c.npz", x=x, y=y, sample_weight=y)
    assert [part is not None for part in load_data(tmp_path / "c.npz")] == [True] * 3


def test_a_folder_of_images_at_the_models_size(tmp_path):
    for name, value in (("cat", 10), ("ant", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            image = np.full((6, 8, 3), value, "uint8")
            keras.utils.save_img(tmp_path / name / f"{i}.png", image, scale=False)
    model = keras.Sequential([keras.Input((4, 5, 1)), keras.layers.Flatten()])
    (x, y), *others = load_data(tmp_path, model)
    assert not others
    assert x.shape == (6, 4, 5, 1)
    for image, label in zip(np.array(x), np.array(y), strict=True):
        assert np.allclose(image, [200, 10][label])  # ant, cat
    for shape in ((3,), (None, None, 3), (4, 4, 2)):
        with pytest.raises(ValueError, match="Received: "):
            load_data(tmp_path, keras.Sequential([keras.Input(shape), keras.layers.ReLU()]))


def test_a_function_of_a_module_of_this_folder(tmp_path, monkeypatch):
    (tmp_path / "my_own_data.py").write_text("def load():\n    return [1, 2], [3, 4]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert load_data("my_own_data:load") == ([1, 2], [3, 4])
    with pytest.raises(ValueError, match="no function 'store'"):
        load_data("my_own_data:store")


class Trap:
    def __reduce__(self):
        return exec, ("raise SystemExit('code was run')",)


def test_bad_input(tmp_path):
    np.savez(tmp_path / "names.npz", a=np.ones(3))
    np.savez(tmp_path / "lengths.npz", x=np.ones(3), y=np.ones(2))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Trap()))
    for source, message in (
        ("names.npz", r"must hold the arrays `x` and `y`, .* Received: \['a'\]"),
        ("lengths.npz", r"Received: \[3, 2\]"),
        ("text.npz", "NumPy cannot load"),
        ("pickle.npz", "NumPy cannot load"),
        ("nowhere", "Expected data as"),
        ("no module:here", "Expected data as"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(tmp_path / source)
    with pytest.raises(FileNotFoundError):
        load_data(tmp_path / "nowhere.npz")


def test_a_function_imports_others_of_its_folder_whenever_it_runs(tmp_path, monkeypatch):
    (tmp_path / "my_numbers.py").write_text("ONE = 1\n")
    (tmp_path / "my_more_numbers.py").write_text("TWO = 2\n")
    (tmp_path / "my_late_data.py").write_text(
        "def load():\n    from my_numbers import ONE\n    yield ONE\n"
        "    from my_more_numbers import TWO\n    yield TWO\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert list(load_data("my_late_data:load")) == [1, 2]
    assert list(load_data("my_late_data:load")) == [1, 2]
    assert sys.path.count(os.getcwd()) == 1
