"""Archives made to mislead: each kind is a change of the header of a small sound one.

Run as a program it loads all files of a folder under a limit of memory, and prints what came of
each as JSON: `{name: [outcome, kilobytes by which the process grew]}`.
"""

import copy
import hashlib
import json
import pathlib
import resource
import sys
import zlib

ROOM = 400 << 20  # address space beyond what the process has before the first file
MAX_BYTES = 1 << 20


def parts_of(blob):
    """Streams and header of an archive, by its format's description alone."""
    length = int.from_bytes(blob[-20:-16], "little")
    return blob[9 : -20 - length], json.loads(zlib.decompress(blob[-20 - length : -20]))


def sealed(streams, header, version=1):
    text = header if isinstance(header, bytes) else zlib.compress(json.dumps(header).encode())
    blob = b"TFCARCHV" + bytes([version]) + streams + text + len(text).to_bytes(4, "little")
    return blob + hashlib.blake2b(blob, digest_size=16).digest()


def tensor(value):
    return {"class_name": "__tensor__", "config": {"value": value, "dtype": "float32"}}


def symbolic(name="i", shape=(None, 4)):
    config = {"shape": list(shape), "dtype": "float32", "keras_history": [name, 0, 0]}
    return {"class_name": "__keras_tensor__", "config": config}


def without(made, key):
    return {name: value for name, value in made.items() if name != key}


def function(module, name):
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


def entry(module, name, config, args=None, registered=None, **more):
    """A layer or operation with one call, or without."""
    made = {"module": module, "class_name": name, "config": {"name": "x"} | config}
    made |= {"registered_name": registered, "name": "x", **more}
    return made | {"inbound_nodes": [] if args is None else [{"args": args, "kwargs": {}}]}


def ours(name, config, **more):
    return entry("tfcompress.layers", name, config, [symbolic()], f"tfcompress>{name}", **more)


def op(module, name, config, args):
    return entry(f"keras.src.ops.{module}", name, config, args, name)


def keras_layer(name, config, **more):
    return entry("keras.layers", name, config, [symbolic()], **more)


def normalization(config, **more):
    """It computes arrays when it is built."""
    return keras_layer("Normalization", config, **more)


CONSTANTS = {"mean": 0.0, "variance": 1.0}
HASHED = {"units": 1 << 24, "buckets": 1, "use_bias": False}
CONSTANT = tensor([[[1.0]]])
LAMBDA = {"function": {"class_name": "__lambda__", "config": {"code": "", "defaults": None}}}
TERNARY = {"units": 4}

# What is added to the layers of the model; the last one's output becomes the model's.
ADDED = {
    "tile": op("numpy", "Tile", {"repeats": [10**9]}, [tensor([1.0])]),
    "upsampling": entry("keras.layers", "UpSampling1D", {"size": 10**9}, [CONSTANT]),
    "symbolic in a slice": op(
        "numpy",
        "Tile",
        {"repeats": [10**9]},
        [
            {
                "class_name": "__slice__",
                "config": dict.fromkeys(("start", "stop", "step"), symbolic()),
            }
        ],
    ),
    "legacy node": keras_layer("Dense", TERNARY) | {"inbound_nodes": [[["i", 0, 0, {}]]]},
    "unstack": op("core", "Unstack", {"num": 10**8, "axis": 1}, [symbolic()]),
    "unstack without a number": op("core", "Unstack", {"axis": 1}, [symbolic()]),
    "split": op("numpy", "Split", {"indices_or_sections": 10**8, "axis": 1}, [symbolic()]),
    "dense": keras_layer("Dense", {"units": 10**12}),
    "overflow": keras_layer("Dense", {"units": 1 << 63}),
    "normalization": normalization({}, build_config={"input_shape": [None, 1 << 27]}),
    "constants": normalization(CONSTANTS, build_config={"input_shape": [None, 1 << 27]}),
    "axis twice": normalization({"axis": [1, 1]}, build_config={"input_shape": [None, 1 << 14]}),
    "not built": normalization(CONSTANTS),
    "embedding": keras_layer("Embedding", {"input_dim": 1 << 40, "output_dim": 1 << 40}),
    "hashed": ours("HashedDense", HASHED),
    "tile hashed": ours("TileHashedDense", {"units": 1 << 40, "tile": 1, "tiles": 1}),
    "circulant": ours("CirculantDense", {"units": 4, "block": 4, "signs": True}),
    "codebook": ours("CodebookDense", {"units": 1 << 40, "size": 16}),
    "activation hashed": ours(
        "TernaryDense", TERNARY | {"activation": ours("HashedDense", HASHED | {"name": "h"})}
    ),
    "initializer hashed": keras_layer(
        "Dense", TERNARY | {"bias_initializer": ours("HashedDense", HASHED | {"name": "h"})}
    ),
    "negative build": ours("HashedDense", HASHED, build_config={"input_shape": [None, -4]}),
    "build with code": ours("HashedDense", HASHED, build_config={"input_shape": LAMBDA}),
    "ignored key": ours("HashedDense", HASHED, ignored={"class_name": "x"}),
    "no module": without(ours("HashedDense", HASHED), "module"),
    "another name": keras_layer("Dense", TERNARY) | {"registered_name": "tfcompress>TernaryDense2"},
    "cond": op(
        "core", "Cond", {}, [symbolic(), *2 * [function("keras.datasets.mnist", "load_data")]]
    ),
    "switch": op("core", "Switch", {}, [symbolic(), [function("keras.config", "set_floatx")], "x"]),
    "map": op("core", "Map", {}, [function("keras.activations", "relu"), symbolic()]),
    "function below an operation": op(
        "numpy", "Add", {}, [symbolic(), function("keras.activations", "relu")]
    ),
    "layer below an operation": op("numpy", "Add", {}, [symbolic(), keras_layer("ReLU", {})]),
    "activation of utils": keras_layer(
        "Dense", TERNARY | {"activation": function("keras.utils", "get_file")}
    ),
    "activation lambda": ours(
        "TernaryDense", TERNARY | {"activation": LAMBDA["function"] | {"module": "builtins"}}
    ),
    "lambda": keras_layer("Lambda", LAMBDA),
    "saved model": keras_layer("TFSMLayer", {"filepath": "somewhere"}),
    "vocabulary": keras_layer("StringLookup", {"vocabulary": "/etc/passwd"}),
    "vocabulary by source": entry(
        "keras.src.layers.preprocessing.index_lookup", "IndexLookup", {}, [symbolic()]
    ),
    "optimizer": entry("keras.optimizers", "Adam", {}, [symbolic()]),
    "our optimizer": ours("ProxNewton", {"learning_rate": 0.1}),
    "typespec": {"class_name": "__typespec__", "config": [], "module": "tensorflow", "name": "x"},
    "import": entry("keras.src.utils.module_utils", "OptionalDependency", {}, [symbolic()]),
    "pickle": entry("builtins", "eval", {}, [symbolic()]),
    "constant of strings": op(
        "numpy",
        "Add",
        {},
        [symbolic(), {"class_name": "__numpy__", "config": {"value": "x", "dtype": "object"}}],
    ),
    "name of another": keras_layer("Dense", TERNARY | {"activation": "tfcompress>obd"}),
}


def with_layer(header, added, needed=True):
    header = copy.deepcopy(header)
    config = header["config"]["config"]
    config["layers"].append(copy.deepcopy(added))
    if needed:
        config["output_layers"] = [config["output_layers"], ["x", 0, 0]]
    return header


def files(blob) -> dict[str, bytes]:
    """Crafted archives, from that of a Functional model with input `i` and a Dense layer `o`."""
    streams, header = parts_of(blob)
    made = {name: with_layer(header, added) for name, added in ADDED.items()}
    for name in ("hashed", "circulant", "dense"):
        made[f"{name}, not needed"] = with_layer(header, ADDED[name], needed=False)

    def change(name, act):
        made[name] = copy.deepcopy(header)
        act(made[name])

    change("no model", lambda h: h.__setitem__("config", keras_layer("Dense", TERNARY)))
    change("list", lambda h: h.__setitem__("config", [h["config"]]))
    change("ignored", lambda h: h["config"].__setitem__("ignored", ADDED["negative build"]))
    change("streams", lambda h: h["weights"][0][2].extend([[0, [1]]] * 99))
    change("huge record", lambda h: h["weights"][0].__setitem__(1, [1 << 31, 1 << 33]))
    change("negative record", lambda h: h["weights"][0].__setitem__(1, [-1, -8]))
    change("true record", lambda h: h["weights"][0].__setitem__(1, [True, 8]))
    change("two models", lambda h: h["weights"].extend(h["weights"]))
    blobs = {name: sealed(streams, header) for name, header in made.items()}
    blobs["brackets"] = sealed(b"", zlib.compress(b"[" + b"[]," * 1_000_000 + b"[]]"))
    blobs["deep"] = sealed(b"", zlib.compress(b"[" * 100_000 + b"]" * 100_000))
    blobs["long header"] = sealed(b"", zlib.compress(b" " * (1 << 30)))
    return blobs


def status(key) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key))


def main(folder):
    import tfcompress as tfc

    tfc.archive.load(folder / "sound", MAX_BYTES)
    limit = (status("VmSize") << 10) + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    found = {}
    for path in sorted(folder.glob("*.tfc")):
        before = status("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        try:
            tfc.archive.load(path, MAX_BYTES)
            outcome = "loaded"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        found[path.stem] = [outcome, status("VmHWM") - before]
    print(json.dumps(found))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
