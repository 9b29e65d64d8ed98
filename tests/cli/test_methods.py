"""The commands of one method each, run in this process."""

import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfcompress as tfc
from tfcompress_cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def net(seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((12,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    model.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 200)
    x = (random.normal(size=(200, 12)) + 2 * np.eye(3, 12)[y]).astype("float32")
    model = net(0)
    model.fit(x, y, epochs=2, verbose=0)
    model.save(folder / "net.keras")
    net(1).save(folder / "other.keras")
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


@pytest.mark.parametrize("bits", [16, 8, 3])
def test_quantize_rounds_every_kernel(folder, tmp_path, bits):
    output = tmp_path / "small.keras"
    done = run("quantize", folder / "net.keras", "-o", output, "--bits", bits, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"path": str(output), "bytes": output.stat().st_size}
    small, model = (keras.models.load_model(p) for p in (output, folder / "net.keras"))
    half, few = tfc.layers.Float16Dense, tfc.layers.QuantizedDense
    kinds = {16: [half, half], 8: [few, half], 3: [few, few]}  # the second one is small
    assert [type(layer) for layer in small.layers] == kinds[bits]
    x = np.load(folder / "data.npz")["x"]
    expected = tfc.swap(model, tfc.layers.rounding(bits))
    np.testing.assert_array_equal(small(x), expected(x))


def test_quantize_with_data_fits_the_outputs(folder, tmp_path):
    x = np.load(folder / "data.npz")["x"]
    model = keras.models.load_model(folder / "net.keras")
    errors = []
    for data in ([], ["--data", folder / "data.npz"]):
        output = tmp_path / "small.tfc"
        done = run("quantize", folder / "net.keras", "-o", output, "--bits", 2, *data)
        assert done.exit_code == 0, done.output
        errors.append(np.square(np.asarray(tfc.archive.load(output)(x) - model(x))).mean())
    assert errors[1] < 0.8 * errors[0]


def test_quantize_to_a_file_of_8_bits(folder, tmp_path):
    whole = len(tfc.to_tflite(keras.models.load_model(folder / "net.keras")))
    done = run("quantize", folder / "net.keras", "-o", tmp_path / "small.tflite")
    assert done.exit_code == 0, done.output
    assert f"{(tmp_path / 'small.tflite').stat().st_size:,} bytes" in done.stdout
    assert (tmp_path / "small.tflite").stat().st_size < whole


@pytest.mark.parametrize("data", [False, True])
def test_prune_sets_the_share_to_zero(folder, tmp_path, data):
    output = tmp_path / "small.keras"
    options = ["--data", folder / "data.npz"] if data else []
    done = run("prune", folder / "net.keras", "-o", output, "--sparsity", 0.75, *options)
    assert done.exit_code == 0, done.output
    for layer in keras.models.load_model(output).layers:
        assert (np.asarray(layer.kernel) == 0).mean() == 0.75


def test_distill_brings_the_student_to_the_teacher(folder, tmp_path):
    output, x = tmp_path / "student.keras", np.load(folder / "data.npz")["x"]
    np.savez(tmp_path / "unlabelled.npz", x=x)
    arguments = [folder / "other.keras", "--teacher", folder / "net.keras"]
    options = ["--data", tmp_path / "unlabelled.npz", "--epochs", 20, "--learning-rate", 0.01]
    done = run("distill", *arguments, *options, "-o", output, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == output.stat().st_size
    teacher, before, after = (
        np.argmax(keras.models.load_model(p)(x), -1)
        for p in (folder / "net.keras", folder / "other.keras", output)
    )
    assert (after == teacher).mean() > max(0.8, (before == teacher).mean())


def test_plan_prints_and_writes_what_keeps_the_budget(folder, tmp_path):
    output = tmp_path / "small.tfc"
    options = ["--data", folder / "data.npz", "--budget", "40%", "-o", output]
    done = run("plan", folder / "net.keras", *options)
    assert done.exit_code == 0, done.output
    assert "dense" in done.stdout and f"{output.stat().st_size:,} bytes" in done.stdout
    done = run("plan", folder / "net.keras", *options[:-2], "--json")
    facts = json.loads(done.stdout)
    assert facts["cost"] <= 0.4 * facts["float_cost"]
    assert len(facts["layers"]) == 2
    small = tfc.archive.load(output)
    assert (
        sum(
            getattr(layer, "bits", 32 * layer.kernel.shape.num_elements()) for layer in small.layers
        )
        <= (facts["cost"])
    )


def test_export_with_real_samples(folder, tmp_path):
    output = tmp_path / "a.tflite"
    given = ["--check", folder / "data.npz", "--activations", "static_int8"]
    done = run("export", folder / "net.keras", "-o", output, *given)
    assert done.exit_code == 0, done.output
    model = keras.models.load_model(folder / "net.keras")
    x = np.load(folder / "data.npz")["x"]
    assert output.read_bytes() == tfc.to_tflite(model, check=x, activations="static_int8")
    done = run("export", folder / "net.keras", "-o", output, *given[2:])
    assert done.exit_code == 1 and "check" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "net.keras", "-o", "a.tfc", "--bits", 9], "`bits` must be 16, or"),
        (["quantize", "net.keras", "-o", "a.onnx"], "named .tflite or .tfc or .keras"),
        (["quantize", "absent.keras", "-o", "a.tfc"], "no such file"),
        (["quantize", "net.keras", "-o", "absent/a.tfc"], "no such folder"),
        (["quantize", "net.keras", "-o", "a.tfc", "--data", "x.csv"], "Expected data as an .npz"),
        (["prune", "net.keras", "-o", "a.tfc", "--sparsity", 1.5], "sparsity"),
        (["prune", "net.keras", "-o", "a.tfc", "--sparsity", 0.5, "--scope", "model"], "scope"),
        (["plan", "net.keras", "--data", "data.npz", "--budget", "lots"], "budget such as 10%"),
        (["plan", "net.keras", "--data", "data.npz", "--budget", "9%", "--target", "ms"], "target"),
        (["export", "net.keras", "-o", "a.tflite", "--check", "absent.npz"], "absent.npz"),
    ],
)
def test_errors_are_one_message_before_any_file(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    done = run(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ") and message in done.stderr
    assert "Traceback" not in done.output and isinstance(done.exception, SystemExit)
    assert sorted(folder.iterdir()) == before


def test_distill_learns_from_labels_and_their_weights(folder, tmp_path):
    data = dict(np.load(folder / "data.npz"))
    losses = []
    for weight in (1.0, 0.0):
        weights = np.where(data["y"] == 0, 1.0, weight)
        np.savez(tmp_path / "weighted.npz", **data, sample_weight=weights)
        given = ("--teacher", folder / "net.keras", "--data", tmp_path / "weighted.npz")
        output = tmp_path / "student.keras"
        done = run("distill", folder / "other.keras", *given, "-o", output, "--epochs", 6, "--json")
        assert done.exit_code == 0, done.output
        student = keras.models.load_model(output, compile=False)
        student.compile(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
        )
        others = data["y"] > 0
        losses.append(student.evaluate(data["x"][others], data["y"][others], verbose=0))
    assert losses[0] < losses[1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x, y: {"x": x, "y": y + 1}, "Expected labels from 0 to 2"),
        (lambda x, y: {"x": x[:, :5], "y": y}, "shapes"),
    ],
)
def test_distill_checks_labels_and_inputs(folder, tmp_path, change, text):
    np.savez(tmp_path / "odd.npz", **change(**np.load(folder / "data.npz")))
    given = ("--teacher", folder / "net.keras", "--data", tmp_path / "odd.npz")
    done = run("distill", folder / "other.keras", *given, "-o", tmp_path / "s.keras")
    assert done.exit_code == 1 and text in done.output


def test_distill_asks_for_the_loss_of_labels(folder, tmp_path):
    model = keras.models.load_model(folder / "net.keras", compile=False)
    keras.Sequential([keras.Input((12,)), *model.layers]).save(tmp_path / "plain.keras")
    given = ("--teacher", tmp_path / "plain.keras", "--data", folder / "data.npz")
    start = "distill", folder / "other.keras", *given, "-o", tmp_path / "s.keras"
    done = run(*start)
    assert done.exit_code == 1 and "give `--loss`" in " ".join(done.output.split())
    done = run(*start, "--loss", "sparse_categorical_crossentropy")
    assert done.exit_code == 0, done.output
    for option, value in (("--epochs", 0), ("--learning-rate", -1)):
        done = run(*start, option, value)
        assert done.exit_code == 1 and option in done.output


def test_a_plan_that_is_written_prints_one_json_document(folder, tmp_path):
    output = tmp_path / "small.tfc"
    given = ("--data", folder / "data.npz", "--budget", "50%", "-o", output, "--json")
    done = run("plan", folder / "net.keras", *given)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["path"] == str(output) and found["bytes"] == output.stat().st_size
    assert "layers" in found


@pytest.mark.parametrize(("target", "ending"), [("archive", "tfc"), ("tflite", "tflite")])
def test_a_plan_writes_what_it_has_counted(folder, tmp_path, target, ending):
    for store in ("fast", "small"):
        given = ["--data", folder / "data.npz", "--budget", "100%", "--target", target, "--json"]
        given += ["--store", store, "-o", tmp_path / f"small.{ending}"]
        done = run("plan", folder / "net.keras", *given)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["bytes"] <= found["cost"] + 2500  # names, biases and what any file has
        if target == "tflite":
            data, terms = np.load(folder / "data.npz"), {"target": target, "store": store}
            model = keras.models.load_model(folder / "net.keras")
            expected = tfc.plan(model, (data["x"], data["y"]), 1.0, **terms, verbose=0).model
            assert found["bytes"] == len(tfc.to_tflite(expected, store=store))


@pytest.mark.parametrize("text", ["150%", "0%", "-5%"])
def test_a_share_above_the_whole_is_no_budget(folder, tmp_path, text):
    given = ("--data", folder / "data.npz", "-o", tmp_path / "s.keras", f"--budget={text}")
    done = run("compress", folder / "net.keras", *given)
    assert done.exit_code == 1 and "above 0% and at most 100%" in " ".join(done.output.split())
