"""The script that times files on a phone, against an `adb` that plays one."""

import os
import pathlib
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "tools/bench_android.sh"
PHONE = """#!/bin/bash
echo "$@" >> "$LOG"
case "$*" in
  get-state) echo ${STATE:-device} ;;
  *getprop*) printf 'Test Phone\\r\\n' ;;
  *--graph=*0.tflite*) count=$(grep -c 'graph=.*0.tflite' "$LOG")
    echo "INFO: Inference timings in us: Init: 500, First inference: $((1000 + count)),"\\
         "Warmup (avg): 260.5, Inference (avg): $((100 * count))" >&2 ;;
  *--graph=*1.tflite*) echo "The number of nodes is 1"
    echo "INFO: Inference timings in us: Init: 400, First inference: 90000,"\\
         "Warmup (avg): 50, Inference (avg): 1.5e+02" ;;
esac
"""


@pytest.fixture
def phone(tmp_path):
    adb = tmp_path / "adb"
    adb.write_text(PHONE)
    adb.chmod(0o755)
    for name in ("benchmark_model", "float.tflite", "small.tflite"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def run(phone, *arguments, **settings):
    env = os.environ | {"PATH": f"{phone}:{os.environ['PATH']}", "LOG": str(phone / "log")}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=phone, env=env | settings, capture_output=True, text=True)


def test_files_run_in_turn_and_medians_are_told(phone):
    done = run(phone, "benchmark_model", "float.tflite", "small.tflite", ROUNDS="3", CPUS="f0")
    assert done.returncode == 0, done.stderr
    title, head, *rows = done.stdout.splitlines()
    assert title == "Test Phone, 1 threads, cores f0"
    assert head.split() == ["file", "load", "first", "call", "later", "faster"]
    # 100, 200, 300 against 150 in each round: 0.67, 1.33 and 2 times.
    assert [row.split() for row in rows] == [
        ["float.tflite", "500", "1002", "200.0", "1.00x"],
        ["small.tflite", "400", "90000", "150.0", "1.33x"],
    ]
    log = (phone / "log").read_text().splitlines()
    graphs = [line for line in log if "--graph=" in line]
    assert [line.split(".tflite")[0][-1] for line in graphs] == list("010101")
    assert all(line.startswith("shell taskset f0 /data/local/tmp/") for line in graphs)
    assert "push float.tflite /data/local/tmp/tfcompress/0.tflite" in log


def test_options_reach_the_tool(phone):
    options = ["--", "--use_xnnpack=false", "--enable_op_profiling=true"]
    done = run(phone, "benchmark_model", "small.tflite", *options, ROUNDS="1", THREADS="2")
    assert done.returncode == 0, done.stderr
    (line,) = [s for s in (phone / "log").read_text().splitlines() if "--graph=" in s]
    assert line.startswith("shell /data/local/tmp/tfcompress/benchmark_model --graph=")
    assert line.endswith(
        "--num_threads=2 --num_runs=50 --use_xnnpack=false --enable_op_profiling=true"
    )


def test_what_is_missing_is_told(phone):
    assert "usage" in run(phone, "benchmark_model").stderr
    assert "no such file: gone.tflite" in run(phone, "benchmark_model", "gone.tflite").stderr
    done = run(phone, "benchmark_model", "small.tflite", STATE="unauthorized")
    assert done.returncode == 1 and "No phone answers" in done.stderr
    (phone / "adb").write_text(PHONE.replace("Inference timings", "Nothing"))
    assert "told no times of small.tflite" in run(phone, "benchmark_model", "small.tflite").stderr
