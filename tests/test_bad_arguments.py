"""Bad numbers and arguments are refused at the door, with the argument's name."""

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfcompress as tfc
from tfcompress.callbacks import Prune
from tfcompress.schedules import Constant, Linear, Piecewise, Polynomial
from tfcompress_cli import app

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype("float32")
Y = RNG.integers(0, 3, 40)


def net(activation=None, from_logits=True):
    layers = [keras.Input((6,)), keras.layers.Dense(8, "relu", name="fc")]
    model = keras.Sequential([*layers, keras.layers.Dense(3, activation, name="out")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits))
    return model


def distilled(model, data):
    student = keras.models.clone_model(model)
    return tfc.Distiller(student=student, teacher=model).cache_teacher(data)


def exported(model, data):
    x = data[0] if isinstance(data, tuple) else data
    return tfc.to_tflite(model, activations="static_int8", check=x)


MEASURES = {
    "gauss_newton": tfc.curvature.gauss_newton,
    "fisher": tfc.curvature.fisher,
    "kronecker": tfc.curvature.kronecker,
    "plan": lambda model, data: tfc.plan(model, data, 0.5),
    "prune": lambda model, data: tfc.prune(model, 0.5, data, score="obs"),
    "prune_channels": lambda model, data: tfc.prune_channels(model, 0.25, data=data),
    "recalibrate": tfc.recalibrate_batch_norm,
    "sensitivity": lambda model, data: tfc.sensitivity(
        model, data, candidates=[tfc.layers.TernaryDense.using()]
    ),
    "compress": lambda model, data: tfc.compress(model, data, 0.5, metric=lambda model: 0.0),
    "distil": distilled,
    "export": exported,
}
WITHOUT_LABELS = {"prune_channels", "export", "recalibrate"}


def bad(value):
    x = X.copy()
    x[30, 2] = value
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", MEASURES)
def test_numbers_that_are_none_in_the_data(name, value):
    with pytest.raises(ValueError, match=r"in `(data|check)` hold NaN or infinite"):
        MEASURES[name](net(), bad(value) if name in WITHOUT_LABELS else (bad(value), Y))


@pytest.mark.parametrize("name", sorted(set(MEASURES) - {"distil"}))
def test_numbers_that_are_none_in_a_weight(name):
    model = net()
    kernel = model.layers[0].kernel.numpy()
    kernel[1, 1] = np.nan
    model.layers[0].kernel.assign(kernel)
    with pytest.raises(ValueError, match="'kernel' of layer 'fc' holds NaN or infinite"):
        MEASURES[name](model, X if name in WITHOUT_LABELS else (X, Y))


@pytest.mark.parametrize("name", ["gauss_newton", "plan", "sensitivity"])
@pytest.mark.parametrize("label", [3, -1])
def test_labels_out_of_range(name, label):
    with pytest.raises(ValueError, match=rf"labels from 0 to 2 .*\n?.*Received: \[{label}\]"):
        MEASURES[name](net(), (X, np.full(40, label)))


@pytest.mark.parametrize("name", sorted(set(MEASURES) - WITHOUT_LABELS))
def test_data_that_do_not_fit_together(name):
    for data, message in (
        ((X, Y[:39]), r"inputs of \[40\] examples, labels of \[39\] examples"),
        ((X.tolist(), Y), "arrays whose first axis"),
        ((X, Y.tolist()), "arrays whose first axis"),
    ):
        with pytest.raises(ValueError, match=message):
            MEASURES[name](net(), data)


def test_inputs_of_another_width():
    for name in ("gauss_newton", "plan", "prune_channels"):
        x = X[:, :5]
        with pytest.raises(
            ValueError, match=r"incompatible|Expected inputs of shapes|not compatible"
        ):
            MEASURES[name](net(), x if name in WITHOUT_LABELS else (x, Y))


def test_samples_of_another_byte_order():
    model = net()
    blob = tfc.to_tflite(model, activations="static_int8", check=X.astype(">f4"))
    assert blob == tfc.to_tflite(model, activations="static_int8", check=X)


def test_seeds():
    for make in (
        lambda: tfc.layers.HashedDense(4, seed=1.7),
        lambda: tfc.layers.TileHashedDense(4, seed="1"),
        lambda: tfc.layers.CirculantDense(4, seed=True),
        lambda: tfc.layers.BinaryDense(4, stochastic=True, seed=1.7),
        lambda: tfc.curvature.gauss_newton(net(), (X, Y), seed=1.7),
    ):
        with pytest.raises(ValueError, match="Expected `seed` to be a whole number"):
            make()


def test_budgets_in_the_wrong_unit():
    for use in (tfc.plan, tfc.compress):
        with pytest.raises(ValueError, match=r"means 10 bytes .* Did you mean 10%\?.*budget=0.1"):
            use(net(), (X, Y), 10)


@pytest.mark.parametrize(
    "schedule", [Polynomial(0, 80, steps=9), Linear(0, 50, steps=3), Piecewise({0: 0, 9: 80})]
)
def test_sparsities_in_percent(schedule):
    with pytest.raises(ValueError, match=r"lies in \[0, 1\)\. Did you mean 0\.[58]\?"):
        Prune(schedule)
    Prune(Constant(0.5))


def test_endings_of_other_formats(tmp_path):
    model = net()
    for act in (
        lambda: tfc.to_tflite(model, tmp_path / "a.onnx"),
        lambda: tfc.archive.save(model, tmp_path / "a.keras"),
        lambda: tfc.report(model).to_html(tmp_path / "a.pdf"),
        lambda: tfc.plan(model, (X, Y), 0.5).plot(tmp_path / "a.xyz"),
    ):
        with pytest.raises(ValueError, match=r"Expected `path` to end in"):
            act()
    assert not list(tmp_path.iterdir())


def test_probabilities_that_are_taken_for_logits():
    with pytest.warns(UserWarning, match="ends in softmax and its loss has `from_logits=True`"):
        tfc.curvature.gauss_newton(net("softmax"), (X, Y))


@pytest.mark.filterwarnings("error::UserWarning")
def test_no_warning_where_they_fit():
    tfc.curvature.gauss_newton(net("softmax", from_logits=False), (X, Y))
    tfc.curvature.gauss_newton(net(), (X, Y))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "-o", "a.tflite", "--store", "tiny"], "`store` must be one of"),
        (["export", "-o", "a.tflite", "--min-runtime", "9"], "`min_runtime` is newer than LiteRT"),
        (["export", "-o", "a.onnx"], "named .tflite"),
        (["report", "--html", "a.pdf"], "named .html"),
        (["compress", "-o", "a.tfc", "--data", "x.npz", "--store", "tiny"], "`store` must be one"),
        (["compress", "-o", "a.tfc", "--data", "x.npz", "--budget", "100"], "Did you mean 100%?"),
    ],
)
def test_the_command_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net().save("net.keras")
    command, *rest = arguments
    done = CliRunner().invoke(app, [command, "net.keras", *rest])
    assert done.exit_code == 1
    assert message in done.output
