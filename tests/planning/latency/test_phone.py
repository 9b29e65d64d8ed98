"""Times of a phone, against an `adb` that plays one: a file takes a microsecond for each byte."""

import os

import pytest

import tfcompress as tfc
from tfcompress.planning.latency import phone
from tfcompress.planning.latency.layer_times import read_times

PHONE = """#!/bin/bash
echo "$@" >> "$LOG"
case "$*" in
  get-state) echo ${STATE:-device} ;;
  *getprop*model) printf 'Test Phone\\r\\n' ;;
  push*) cp "$2" "$DEVICE/$(basename "$3")" ;;
  *--graph=*) file=$(sed 's/.*--graph=[^ ]*\\/\\([0-9]*.tflite\\).*/\\1/' <<< "$*")
    echo "INFO: Inference timings in us: Init: 500, First inference: 9,"\\
         "Warmup (avg): 260.5, Inference (avg): $(stat -c %s "$DEVICE/$file")" >&2
    exit ${CODE:-0} ;;
esac
"""


@pytest.fixture
def adb(tmp_path, monkeypatch):
    program = tmp_path / "adb"
    program.write_text(PHONE)
    program.chmod(0o755)
    (tmp_path / "device").mkdir()
    (tmp_path / "benchmark_model").write_bytes(b"x")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("DEVICE", str(tmp_path / "device"))
    return tmp_path


def test_files_run_in_turn_on_the_phone(adb):
    made = phone.Phone(adb / "benchmark_model", threads=2)
    assert made.name == "Test Phone, Test Phone" and made.runtime == "benchmark_model 2d711642b726"
    assert made({"a": b"123", "b": b"12345"}) == [[3e-6] * 5, [5e-6] * 5]
    runs = [line for line in (adb / "log").read_text().splitlines() if "--graph=" in line]
    assert [line.split(".tflite")[0][-1] for line in runs] == list("01" * 5)
    start = "shell /data/local/tmp/tfcompress/benchmark_model --graph=/data/local/tmp/tfcompress/0"
    assert runs[0].startswith(start) and "--num_threads=2 --num_runs=20" in runs[0]


def test_a_table_of_the_phone_is_what_a_plan_reads(adb, net, x, forms):
    path = adb / "phone.json"
    times = tfc.time_layers(net, path, adb / "benchmark_model", forms)
    assert read_times(path) == times and times.processor == "Test Phone, Test Phone"
    plan = tfc.plan(net, x, 0.5, "milliseconds", candidates=forms, latency=path)
    whole = max(ms for key, ms in times.milliseconds.items() if key.startswith("file of 3 "))
    assert plan.milliseconds <= 0.5 * whole and plan.float_milliseconds == whole


def test_what_is_missing_is_told(adb, monkeypatch):
    with pytest.raises(ValueError, match="benchmark_model` for the phone"):
        phone.Phone(adb / "gone")
    made = phone.Phone(adb / "benchmark_model")
    monkeypatch.setenv("CODE", "3")
    with pytest.raises(ValueError, match=r"adb shell .*failed: .*Inference \(avg\)"):
        made({"a": b"1"})
    monkeypatch.setenv("STATE", "unauthorized")
    with pytest.raises(ValueError, match=r"No phone answers.*'unauthorized'"):
        phone.Phone(adb / "benchmark_model")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="`adb` is missing"):
        phone.Phone(adb / "benchmark_model")


def test_a_phone_that_tells_no_time_is_refused(adb):
    (adb / "adb").write_text(PHONE.replace("Inference timings", "Nothing"))
    made = phone.Phone(adb / "benchmark_model")
    with pytest.raises(ValueError, match="told no time of a"):
        made({"a": b"1"})
