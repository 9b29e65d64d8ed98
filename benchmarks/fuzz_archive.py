"""Mutated files: archives in `load`, and .tflite files in `report` and `bench`.

    python benchmarks/fuzz_archive.py [--structured 10000] [--count 10000] [--tflite 1000]

Each file is a small model's with bits flipped, bytes set, parts cut out or doubled, or lengths
changed; half of the archives are sealed again with a valid checksum, and some have their header's
JSON changed, which no checksum would tell. The structured ones have classes, modules, nodes, shapes
and records of their header swapped (mutate_config.py). All that may come of it is a model within
the bound or an `ArchiveError` (a `ValueError` for .tflite files). Structured archives are read in a
child process under limits of memory and time, and the operating system counts its memory.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zlib

import keras
from mutate_config import mutated_header

import tfcompress as tfc

MAX_BYTES = 1 << 24
SECONDS = 30  # for one file
CHILD_MEMORY = 6 << 30
ROOM = 1 << 30  # address space that a child may take for all its archives
SLACK = 48 << 20  # bytes of memory for one archive beside its bound: layers, and Python itself


def small_model():
    layers = [keras.Input((12, 12, 1)), keras.layers.Conv2D(4, 3, name="conv")]
    layers += [keras.layers.BatchNormalization(), keras.layers.Flatten()]
    layers += [keras.layers.Dense(32, name="fc"), keras.layers.Dense(5, name="out")]
    rules = {"conv": tfc.layers.CPConv2D.using(rank=2), "fc": tfc.layers.TernaryDense}
    rules["out"] = tfc.layers.HashedDense.using(ratio=4)
    return tfc.swap(keras.Sequential(layers), rules)


def mutated(blob, rng):
    """The bytes with one to four changes."""
    blob = bytearray(blob)
    for _ in range(rng.randint(1, 4)):
        place, length = rng.randrange(len(blob) or 1), rng.choice([1, 2, 4, 16, 64])
        kind = rng.choice([0, 0, 0, 1, 1, 2, 3, 4, 4, 5])
        if kind == 0:
            blob[place : place + 1] = bytes([blob[place] ^ 1 << rng.randrange(8)])
        elif kind == 1:
            blob[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            del blob[place : place + length]
        elif kind == 3:
            blob[place:place] = blob[place : place + length]
        elif kind == 4:
            word = rng.choice([0, 1, 0x7F, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000])
            blob[place : place + 4] = word.to_bytes(4, "little")
        else:
            del blob[place:]
        if not blob:
            break
    return bytes(blob)


def mutated_archive(blob, rng):
    kind = rng.randrange(4)
    if kind == 0:
        return mutated(blob, rng)
    if kind == 1:  # the whole, sealed again
        return sealed(mutated(blob[:-16], rng))
    length = int.from_bytes(blob[-20:-16], "little")
    streams, text = blob[: -20 - length], zlib.decompress(blob[-20 - length : -20])
    if kind == 2:  # bytes of the header
        text = mutated(text, rng)
    else:  # a number of the header
        header = json.loads(text)
        change_one(header, rng)
        text = json.dumps(header).encode()
    zipped = zlib.compress(text)
    return sealed(streams + zipped + len(zipped).to_bytes(4, "little"))


def sealed(blob):
    return blob + hashlib.blake2b(blob, digest_size=16).digest()


def change_one(tree, rng):
    """Sets one leaf of a JSON tree to another value."""
    places = []

    def collect(node):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            places.append((node, key))
            if isinstance(value, (dict, list)):
                collect(value)

    collect(tree)
    node, key = rng.choice(places)
    node[key] = rng.choice([0, 1, -1, 7, 2**20, 2**31, 2**63, 1e300, None, True, "", "x", [], {}])


def fuzz_archives(count, seed, folder):
    path, rng, ends = folder / "a.tfc", random.Random(seed), collections.Counter()
    tfc.archive.save(small_model(), path)
    blob, slowest = path.read_bytes(), 0.0
    tfc.archive.load(path, MAX_BYTES)
    before = peak_memory()
    for i in range(count):
        path.write_bytes(mutated_archive(blob, rng))
        begin = time.monotonic()
        signal.alarm(SECONDS)  # ends the run: a hang is a failure
        try:
            tfc.archive.load(path, MAX_BYTES)
            ends["a model"] += 1
        except tfc.archive.ArchiveError:
            ends["ArchiveError"] += 1
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.monotonic() - begin)
        if i % 200 == 199:
            keras.backend.clear_session()
            print(f"{i + 1} archives: {dict(ends)}", flush=True)
    print(f"| archives | {dict(ends)} | slowest {slowest:.2f} s |")
    print(f"| peak memory | {before >> 20} MB before | {peak_memory() >> 20} MB after |")


def models():
    """Small models of many kinds: swapped, nested, recurrent, with bare operations."""
    keras.utils.set_random_seed(0)
    layers, ours = keras.layers, tfc.layers
    yield small_model()
    plain = [keras.Input((32,)), layers.Dense(24, "relu", name="a"), layers.Dense(16, name="b")]
    plain = keras.Sequential([*plain, layers.Dense(4, name="c")])
    for one, other in (
        (ours.TernaryDense.using(), ours.QuantizedDense.using(bits=3)),
        (ours.BinaryDense.using(), ours.CodebookDense.using(size=8)),
        (ours.HashedDense.using(ratio=4), ours.CirculantDense.using(block=8)),
        (ours.LowRankDense.using(rank=4), ours.TileHashedDense.using(tile=8, tiles=2)),
    ):
        yield tfc.swap(plain, {"a": one, "b": other})
    x = inputs = keras.Input((10,), dtype="int32")
    x = layers.Bidirectional(layers.LSTM(6))(layers.Embedding(20, 8)(x))
    x = keras.ops.concatenate([x[:, :4] * 2.0, keras.ops.split(x, 2, axis=1)[0]], axis=1)
    yield keras.Model(inputs, layers.Dense(3, activation=layers.LeakyReLU())(x))


def fuzz_structured(count, seed, folder):
    """Runs children until all are done; a child that dies has failed at the file it was at."""
    for number, model in enumerate(models()):
        tfc.archive.save(model, folder / f"{number}.tfc")
    done, ends = 0, collections.Counter()
    while done < count:
        command = [sys.executable, __file__, "--structured-child", str(folder), str(seed)]
        log = folder / "log.txt"
        with open(log, "w") as file:
            code = subprocess.run([*command, str(done), str(count)], stdout=file).returncode
        lines = log.read_text().splitlines()
        started = [line for line in lines if line.isdigit()]
        ends.update(line for line in lines if not line.isdigit())
        if code:
            ends[f"FAILURE at {started[-1:]}: the process ended with {code}"] += 1
        done += len(started)
        if code and not started:
            raise RuntimeError(f"the child ended with {code}: {lines[-3:]}")
        print(f"{done} structured archives: {dict(ends)}", flush=True)
    for end, times in ends.most_common():
        print(f"| structured | {end} | {times} |")
    return not any(end.startswith("FAILURE") for end in ends)


def structured_child(folder, seed, start, stop):
    blobs = [path.read_bytes() for path in sorted(folder.glob("?.tfc"))]
    parts = []
    for blob in blobs:
        length = int.from_bytes(blob[-20:-16], "little")
        text = zlib.decompress(blob[-20 - length : -20])
        parts.append((blob[: -20 - length], json.loads(text)))
        tfc.archive.load(folder / f"{len(parts) - 1}.tfc", MAX_BYTES)
    limit = status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for i in range(start, stop):
        print(i, flush=True)
        rng = random.Random(f"{seed} {i}")
        streams, header = rng.choice(parts)
        zipped = zlib.compress(json.dumps(mutated_header(header, rng)).encode())
        path = folder / "mutated.tfc"
        path.write_bytes(sealed(streams + zipped + len(zipped).to_bytes(4, "little")))
        print(ending(path, i), flush=True)
        if i % 200 == 199:
            keras.backend.clear_session()


def ending(path, number):
    """What came of one archive: "a model", "ArchiveError", or what went wrong."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, floatx = status("VmRSS"), keras.config.floatx()
    signal.alarm(SECONDS)  # ends the process
    try:
        model = tfc.archive.load(path, MAX_BYTES)
        end = "a model"
        held = sum(keras.ops.convert_to_numpy(v).nbytes for v in model.weights)
        if held > MAX_BYTES:
            end = f"FAILURE at {number}: {held} bytes of weights"
    except tfc.archive.ArchiveError as error:
        end = "ArchiveError"
        if isinstance(error.__cause__, MemoryError):
            end = f"FAILURE at {number}: MemoryError"
    except Exception as error:
        end = f"FAILURE at {number}: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    grown = status("VmHWM") - before
    if grown > MAX_BYTES + SLACK:
        end = f"FAILURE at {number}: {grown >> 20} MB of memory, {end}"
    if keras.config.floatx() != floatx:
        end = f"FAILURE at {number}: the float type has changed"
    return end


def status(key) -> int:
    """Bytes of an entry of /proc/self/status."""
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(key))


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def fuzz_tflite(count, seed, folder):
    model, rng, ends = small_model(), random.Random(seed), collections.Counter()
    model.save(folder / "model.keras")
    blob = tfc.to_tflite(model, check=None)
    for i in range(count):
        (folder / f"{i}.tflite").write_bytes(mutated(blob, rng))
    done = 0
    while done < count:
        command = [sys.executable, __file__, "--child", str(folder), str(done), str(count)]
        log = folder / "log.txt"
        with open(log, "w") as file:
            code = subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL).returncode
        lines = log.read_text().splitlines()
        ends.update(line for line in lines if not line.isdigit())
        done += sum(line.isdigit() for line in lines)
        if code and lines and lines[-1].isdigit():  # died while it was at this file
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            ends[f"the runtime ends the process: {name}"] += 1
        elif code:
            raise RuntimeError(f"the child ended with {code}: {lines[-3:]}")
        print(f"{done} .tflite files: {dict(ends)}", flush=True)
    for end, times in ends.most_common():
        print(f"| .tflite | {end} | {times} |")


def child(folder, start, stop):
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY, CHILD_MEMORY))
    model = keras.models.load_model(folder / "model.keras")
    for i in range(start, stop):
        print(i, flush=True)
        blob = (folder / f"{i}.tflite").read_bytes()
        for name, read in (
            ("report", lambda blob=blob: tfc.report(model, tflite=blob)),
            ("bench", lambda blob=blob: tfc.bench({"a": blob}, rounds=7, seconds=1, memory=False)),
        ):
            signal.alarm(SECONDS)
            try:
                read()
                print(f"{name}: a result", flush=True)
            except ValueError:
                print(f"{name}: ValueError", flush=True)
            except Exception as error:
                print(f"{name}: FAILURE {type(error).__name__}: {str(error)[:80]}", flush=True)
            signal.alarm(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--structured", type=int, default=10_000)
    parser.add_argument("--tflite", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--structured-child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if arguments.child:
        folder, start, stop = arguments.child
        return child(pathlib.Path(folder), int(start), int(stop))
    if arguments.structured_child:
        folder, *numbers = arguments.structured_child
        return structured_child(pathlib.Path(folder), *map(int, numbers))
    with tempfile.TemporaryDirectory() as folder:
        sound = fuzz_structured(arguments.structured, arguments.seed, pathlib.Path(folder))
        fuzz_archives(arguments.count, arguments.seed, pathlib.Path(folder))
        fuzz_tflite(arguments.tflite, arguments.seed, pathlib.Path(folder))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
