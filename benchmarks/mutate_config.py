"""Structure-aware changes of an archive's header, for fuzz_archive.py.

Classes, modules, registered names, nodes, shapes, numbers, whole subtrees and records of arrays are
swapped for others: what a stranger would try, where random bytes never get past the checksum.
"""

import copy

CLASSES = [
    *(("keras.layers", name) for name in ("Dense", "Conv2D", "LSTM", "RNN", "Bidirectional")),
    *(("keras.layers", name) for name in ("Embedding", "TimeDistributed", "Normalization")),
    *(("keras.layers", name) for name in ("UpSampling1D", "ZeroPadding2D", "RepeatVector")),
    *(("keras.layers", name) for name in ("MultiHeadAttention", "Reshape", "Flatten", "Dropout")),
    *(("keras.layers", name) for name in ("Lambda", "TFSMLayer", "StringLookup", "Layer")),
    *(("keras.src.ops.numpy", name) for name in ("Tile", "Repeat", "Add", "Pad", "Split", "Eye")),
    *(("keras.src.ops.core", name) for name in ("Cond", "Switch", "Map", "Unstack", "Slice")),
    *(("keras.src.ops.nn", name) for name in ("OneHot", "Relu", "Unfold")),
    *(("keras.src.ops.image", name) for name in ("Resize", "ExtractPatches")),
    *(("keras.initializers", name) for name in ("Constant", "Orthogonal", "Identity")),
    ("keras.optimizers", "Adam"),
    ("keras", "Sequential"),
    ("keras.src.models.functional", "Functional"),
    ("builtins", "eval"),
    ("keras.utils", "get_file"),
]
OURS = ["HashedDense", "TileHashedDense", "CirculantDense", "TernaryDense", "CodebookDense"]
OURS += ["CPConv2D", "BinaryConv2D", "ProxNewton", "Distiller", "Clip", "Nothing"]
SIZES = [-(2**63), -1, 0, 1, 2, 3, 4, 7, 100, 2**16, 2**20, 2**28, 2**31, 2**40, 2**63, 10**30]
OTHERS = [None, True, 0.5, 1e300, float("nan"), "", "x", "float64", "tfcompress>obd", [], {}, [[0]]]


def mutated_header(header, rng) -> dict:
    """A copy of a header with one to three changes."""
    header = copy.deepcopy(header)
    for _ in range(rng.choice([1, 1, 2, 3])):
        try:
            rng.choice(CHANGES)(header, rng)
        except (AttributeError, IndexError, KeyError, TypeError):
            break  # the change before has left nothing that this one could change
    return header


def places(tree, wanted):
    """`[(owner, key)]` of the values of a JSON tree for which `wanted(key, value)` holds."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if wanted(key, value):
                found.append((node, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def entries(header):
    found = places(header, lambda key, value: isinstance(value, dict) and "class_name" in value)
    return [owner[key] for owner, key in found]


def change_class(header, rng):
    entry = rng.choice(entries(header))
    if rng.random() < 0.4:
        name = rng.choice(OURS)
        made = {"module": "tfcompress.layers", "class_name": name}
        made["registered_name"] = f"tfcompress>{name}"
    else:
        module, name = rng.choice(CLASSES)
        made = {"module": module, "class_name": name}
        made["registered_name"] = rng.choice([None, name, "tfcompress>Clip"])
    entry |= made if rng.random() < 0.7 else dict(rng.sample(sorted(made.items()), 1))


def change_key(header, rng):
    entry = rng.choice(entries(header))
    key = rng.choice([*entry, "compile_config", "build_config", "ignored", "shared_object_id"])
    if rng.random() < 0.4:
        entry.pop(key, None)
    else:
        entry[key] = copy.deepcopy(rng.choice([*OTHERS, *SIZES, *entries(header)]))


def change_number(header, rng):
    numbers = places(header, lambda key, value: type(value) in (int, float))
    owner, key = rng.choice(numbers)
    owner[key] = rng.choice(SIZES if rng.random() < 0.8 else OTHERS)


def change_shape(header, rng):
    names = {"input_shape", "batch_shape", "shape", "kernel_size", "strides", "rank", "units"}
    found = places(header["config"], lambda key, value: key in names)
    if found:
        owner, key = rng.choice(found)
        sizes = [rng.choice([None, *SIZES]) for _ in range(rng.randint(0, 4))]
        owner[key] = sizes if rng.random() < 0.7 else rng.choice(SIZES)


def change_node(header, rng):
    nodes = places(header["config"], lambda key, value: key in ("args", "kwargs", "inbound_nodes"))
    if not nodes:
        return
    owner, key = rng.choice(nodes)
    constant = {"class_name": "__tensor__", "config": {"value": [1.0], "dtype": "float32"}}
    function = {"module": "keras.utils", "class_name": "function", "config": "get_file"}
    function["registered_name"] = "get_file"
    other, place = rng.choice(nodes)
    made = [constant, [constant], function, [], {}, other[place], rng.choice(entries(header))]
    value = copy.deepcopy(rng.choice(made))
    if isinstance(owner[key], list) and rng.random() < 0.6:
        owner[key] = [*owner[key], value]
    else:
        owner[key] = value


def change_subtree(header, rng):
    """One value takes the place of another, or both change places."""
    everywhere = places(header, lambda key, value: True)
    (one, here), (other, there) = rng.choice(everywhere), rng.choice(everywhere)
    first, second = copy.deepcopy(one[here]), copy.deepcopy(other[there])
    one[here] = second
    if rng.random() < 0.3 and there in (other if isinstance(other, dict) else range(len(other))):
        other[there] = first


def change_layers(header, rng):
    """A layer twice, or gone, or under another name."""
    lists = places(header, lambda key, value: key == "layers" and isinstance(value, list))
    if not lists:
        return
    owner, key = rng.choice(lists)
    if owner[key]:
        index = rng.randrange(len(owner[key]))
        if rng.random() < 0.3:
            del owner[key][index]
        else:
            layer = copy.deepcopy(owner[key][index])
            if isinstance(layer, dict) and rng.random() < 0.7:
                layer["name"] = "another"
            owner[key].append(layer)


def change_record(header, rng):
    records = [*header["weights"], *(r for p in header["stored"].values() for r in p.values())]
    record = rng.choice(records)
    place = rng.randrange(3)
    if place == 0:
        record[0] = rng.choice(["float64", "int8", "bool", "uint64", "string", "object", 3])
    elif place == 1:
        record[1] = [rng.choice(SIZES) for _ in range(rng.randint(0, 3))]
    else:
        streams = record[2]
        index = rng.randrange(len(streams))
        counts = rng.choice([None, [], [0], [1], [1, 1], [-1, 2], [1 << 20], [1] * 300, "x"])
        streams[index] = [streams[index][0], counts]
        streams += [[0, counts]] * rng.choice([0, 0, 1, 1000])


CHANGES = [change_class, change_class, change_key, change_number, change_shape, change_shape]
CHANGES += [change_node, change_subtree, change_layers, change_record]
