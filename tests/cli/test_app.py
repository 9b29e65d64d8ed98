import json

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfcompress as tfc
from tfcompress.cli import demo
from tfcompress_cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def net():
    return keras.Sequential(
        [
            keras.Input((64,), name="image"),
            keras.layers.Dense(64, activation="relu", name="fc"),
            keras.layers.Dense(3, name="out"),
        ],
        name="net",
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    model = net()
    model.save(folder / "net.keras")
    model.save(folder / "net.h5")
    small = tfc.swap(model, {"fc": tfc.layers.BinaryDense.using()})
    small.save(folder / "small.keras")
    (folder / "broken.keras").write_bytes(b"not a zip file")
    (folder / "broken.tfc").write_bytes(b"not an archive")
    (folder / "notes.txt").write_text("hello")
    for name in ("net", "small"):
        done = run("export", folder / f"{name}.keras", "-o", folder / f"{name}.tflite")
        assert done.exit_code == 0, done.output
    cut = (folder / "net.tflite").read_bytes()[:500]
    (folder / "cut.tflite").write_bytes(cut)
    return folder


def test_report_of_a_compressed_model_with_its_file(files):
    done = run("report", files / "small.keras", "--tflite", files / "small.tflite")
    assert done.exit_code == 0, done.output
    assert "BinaryDense" in done.stdout
    assert "INT" in done.stdout
    assert f"{(files / 'small.tflite').stat().st_size:,} bytes" in done.stdout
    assert "LiteRT 2.1.2 and newer" in done.stdout


@pytest.mark.parametrize("name", ["net.keras", "net.h5"])
def test_report_as_json(files, name):
    done = run("report", files / name, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [row["path"] for row in data["rows"]] == ["fc", "out"]
    assert data["bits"] == 32 * (64 * 64 + 64 * 3)


def test_report_writes_a_page(files, tmp_path):
    points = tmp_path / "points.json"
    points.write_text('{"large": [9000, 0.9], "small": [800, 0.89]}')
    options = ["--html", tmp_path / "a.html", "--points", points, "--accuracy", "0.8876"]
    done = run("report", files / "small.keras", *options)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "a.html").read_text()
    assert "Accuracy against bytes" in page and "<b>0.8876</b>accuracy" in page
    assert "BinaryDense" in done.stdout
    points.write_text('{"large": 3}')
    done = run("report", files / "small.keras", *options)
    assert done.exit_code == 1
    assert "of the form" in done.stderr
    points.write_text('{"large": [Infinity, 0.9]}')
    done = run("report", files / "small.keras", *options)
    assert "of the form" in done.stderr
    points.write_text('{"large": [0, 0.9]}')
    done = run("report", files / "small.keras", *options)
    assert done.exit_code == 1
    assert "Expected `bytes of large` above 0. Received: 0" in done.stderr
    for at in (2, 4):
        done = run("report", files / "small.keras", *options[at : at + 2])
        assert done.stderr == f"Error: `{options[at]}` is for the page that `--html` writes.\n"
    done = run("report", files / "small.keras", *options[:2], "--accuracy", "88.7")
    assert "Did you mean 88.7%, which is 0.887? Received: 88.7" in done.stderr


def test_archive_there_and_back(files, tmp_path):
    packed, half = tmp_path / "a.tfc", tmp_path / "half.tfc"
    done = run("archive", files / "small.keras", "-o", packed, "--json")
    assert done.exit_code == 0, done.output
    size = packed.stat().st_size
    assert json.loads(done.stdout) == {"path": str(packed), "bytes": size}
    assert size < 64 * 64 / 8 + 4 * (64 * 3 + 64 + 64 + 3) + 1024
    assert run("archive", files / "small.keras", "-o", half, "--half").exit_code == 0
    assert half.stat().st_size < size
    assert run("archive", packed, "-o", tmp_path / "a.keras").exit_code == 0
    x = np.ones((1, 64), "float32")
    first, back = (
        keras.models.load_model(p) for p in (files / "small.keras", tmp_path / "a.keras")
    )
    assert np.array_equal(first(x), back(x))
    one, other = (
        json.loads(run("report", p, "--json").stdout) for p in (packed, tmp_path / "a.keras")
    )
    assert one == other


def test_export_tells_the_size_and_options_reach_it(files, tmp_path):
    done = run("export", files / "small.keras", "-o", tmp_path / "a.tflite", "--store", "small")
    assert done.exit_code == 0, done.output
    size = (tmp_path / "a.tflite").stat().st_size
    assert f"{size:,} bytes" in done.stdout
    assert size < (files / "net.tflite").stat().st_size


def test_export_rounds_what_nobody_compressed(files, tmp_path):
    sizes = []
    for bits in ("32", "16", "8"):
        done = run("export", files / "net.keras", "-o", tmp_path / "a.tflite", "--bits", bits)
        assert done.exit_code == 0, done.output
        sizes.append((tmp_path / "a.tflite").stat().st_size)
    assert sizes == sorted(set(sizes), reverse=True)


def test_bench_compares_files(files):
    done = run("bench", files / "net.tflite", files / "small.tflite", "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [timing["bytes"] for timing in data["timings"]] == [
        (files / f"{name}.tflite").stat().st_size for name in ("net", "small")
    ]
    done = run("bench", files / "net.tflite")
    assert "delegated" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["report", "nowhere.keras"], "no such file: "),
        (["report", "notes.txt"], "Expected a .keras, .h5 or .tfc file"),
        (["report", "broken.keras"], "is no .keras file"),
        (["report", "net.keras", "--tflite", "cut.tflite"], "truncated or damaged"),
        (["report", "net.keras", "--tflite", "nowhere.tflite"], "There is no such file"),
        (["export", "net.keras", "-o", "missing/net.tflite"], "folder"),
        (["export", "net.keras", "-o", "a.tflite", "--store", "tiny"], "Received: 'tiny'"),
        (["export", "net.keras", "-o", "a.tflite", "--bits", "4"], "must be 32, 16 or 8"),
        (["report", "broken.tfc"], "no archive"),
        (["archive", "net.keras", "-o", "a.zip"], "Expected an output named"),
        (["archive", "net.keras", "-o", "missing/a.tfc"], "no such folder"),
        (["archive", "net.keras", "-o", "a.keras", "--half"], "for writing an archive"),
        (["bench", "net.tflite", "cut.tflite"], "truncated or damaged"),
        (["bench", "notes.txt"], "Expected a .tflite file"),
        (["bench", "net.keras"], "A Keras model is for a table of its layers' times"),
        (["bench", "net.tflite", "--store", "small"], "--store is for a table"),
        (["bench", "net.keras", "-o", "t.json", "--batch", "8"], "`--batch` is for files"),
    ],
)
def test_errors_have_one_message_and_exit_code_1(files, arguments, message, monkeypatch):
    monkeypatch.chdir(files)
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in " ".join(done.stderr.split())
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.output
    assert isinstance(done.exception, SystemExit)


def test_no_command_shows_the_help():
    assert "report" in run().output
    assert run("report", "--help").exit_code == 0
    assert run("fly").exit_code == 2


@pytest.fixture
def small_demo(monkeypatch):
    rng = np.random.default_rng(0)

    def data():
        train = rng.random((192, 28, 28, 1), "float32"), rng.integers(0, 10, 192)
        test = rng.random((64, 28, 28, 1), "float32"), rng.integers(0, 10, 64)
        return train, test, "noise"

    monkeypatch.setattr(demo, "fashion_mnist", data)
    kept = ("binary", "80% pruned")
    monkeypatch.setattr(demo, "RULES", {name: demo.RULES[name] for name in kept})


def test_demo_makes_the_table_the_picture_and_the_files(small_demo, tmp_path):
    done = run("demo", "--quick", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["float32", "binary", "80% pruned"]
    for row in rows:
        assert row["name"] in done.stdout
        assert f"{row['file_bytes']:,}" in done.stdout
        assert row["litert_accuracy"] == pytest.approx(row["keras_accuracy"], abs=0.05)
        assert row["gzip_bytes"] < row["file_bytes"]
    full, binary, pruned = rows
    assert binary["kernel_bits"] < full["kernel_bits"] / 16
    assert binary["file_bytes"] < full["file_bytes"] / 4
    assert pruned["gzip_bytes"] < full["gzip_bytes"] / 2
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    saved = keras.models.load_model(tmp_path / "out" / "binary.keras")
    assert type(saved.get_layer("fc")).__name__ == "BinaryDense"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compress")
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 600)
    x = (random.normal(size=(600, 64)) + 3 * np.eye(3, 64)[y]).astype("float32")
    keras.utils.set_random_seed(0)
    model = net()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, jit_compile=False)
    model.fit(x, y, epochs=5, verbose=0)
    model.save(folder / "net.keras")
    np.savez(folder / "data.npz", x=x, y=y)
    return folder


@pytest.mark.parametrize("suffix", ["tflite", "tfc", "keras"])
def test_compress_to_a_budget(trained, suffix):
    output = trained / f"small.{suffix}"
    arguments = ["--data", trained / "data.npz", "--budget", "40%", "--epochs", 1, "-o", output]
    done = run("compress", trained / "net.keras", *arguments, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["bytes"] == output.stat().st_size
    assert facts["before"] - facts["after"] < 0.1
    if suffix == "tflite":
        whole = len(tfc.to_tflite(keras.models.load_model(trained / "net.keras")))
        assert facts["bytes"] <= 0.4 * whole


def test_another_loss_leaves_the_compiled_metrics(trained, tmp_path):
    model = keras.models.load_model(trained / "net.keras")
    model.compile("adam", "mse", metrics=["top_k_categorical_accuracy"])
    model.save(tmp_path / "other.keras")
    x, y = (np.load(trained / "data.npz")[name] for name in "xy")
    np.savez(tmp_path / "data.npz", x=x, y=np.eye(3)[y])
    given = ["--data", tmp_path / "data.npz", "--budget", "40%", "--epochs", 0]
    given += ["-o", tmp_path / "small.tfc", "--loss", "mae"]
    done = run("compress", tmp_path / "other.keras", *given)
    assert done.exit_code == 0, done.output
    assert "top_k_categorical_accuracy" in done.stdout


def test_compress_as_far_as_the_accuracy_allows(trained):
    output = trained / "smallest.tflite"
    arguments = ["--data", trained / "data.npz", "--max-drop", 0.1, "--epochs", 1, "-o", output]
    done = run("compress", trained / "net.keras", *arguments)
    assert done.exit_code == 0, done.output
    assert "asked for: max_drop=0.1, target='tflite'; it took " in done.stdout
    assert "\nreached: " in done.stdout and f"{output.stat().st_size:,} bytes" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "lots"], "budget such as 10%"),
        ([], "Give a `budget`"),
        (["--budget", "0.01%"], "smallest forms exceed"),
        (["--budget", "10%", "-o", "small.onnx"], "named .tflite"),
        (["--budget", "10%", "--data", "missing.npz"], "missing.npz"),
        (["--budget", "10%", "--loss", "no_such_loss"], "no_such_loss"),
    ],
)
def test_bad_input_of_compress(trained, arguments, message):
    given = ["--data", trained / "data.npz", "-o", trained / "bad.tflite", *arguments]
    done = run("compress", trained / "net.keras", *given)
    assert done.exit_code == 1
    assert message in done.stderr and "Traceback" not in done.stderr
    assert not (trained / "bad.tflite").exists()
