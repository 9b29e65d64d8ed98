"""Draws the pictures of the pages in docs/techniques from the tables of the benchmarks' pages.

    python benchmarks/pictures.py

Nothing is measured: run it after a benchmark has written its page anew.
"""

import pathlib
import re

from tfcompress.reporting.scatter import draw_front, new_axes, place_labels

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PICTURES = DOCS / "techniques"
NETS = {"mlp": "MLP", "lenet": "LeNet", "resnet": "ResNet"}
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # behind labels
GREY, BLUE, ORANGE = "0.75", "tab:blue", "tab:orange"


def rows(page, pattern, part=""):
    """The cells of the table rows of a page that match, below a heading that begins with `part`."""
    text = (DOCS / f"{page}-benchmark.md").read_text()
    text = text[text.index(part) :]
    found = re.findall(r"^\| *(.*?) *\|$", text, re.MULTILINE)
    return [re.split(r" *\| *", row) for row in found if re.search(pattern, row)]


def number(cell):
    """The first number of a cell."""
    return float(re.search(r"[-+]?[\d.]+", cell.replace(",", "").replace("*", ""))[0])


def axes_of(title, ylabel, xlabel=None, width=7):
    from matplotlib.figure import Figure

    axes = Figure(figsize=(width, 4), dpi=130, layout="constrained").add_subplot()
    axes.set(title=title, ylabel=ylabel, xlabel=xlabel)
    axes.grid(alpha=0.3, axis="y" if xlabel is None else "both")
    axes.set_axisbelow(True)
    return axes


def finish(axes, name, legend=True):
    if legend:
        axes.legend(loc="best", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.savefig(PICTURES / f"{name}.png")


def bars(axes, names, series, form="{:.1f}"):
    """Groups of bars, one group a name, with their heights written above them."""
    width = 0.8 / len(series)
    for place, (label, (values, color)) in enumerate(series.items()):
        at = [n + (place - (len(series) - 1) / 2) * width for n in range(len(names))]
        drawn = axes.bar(at, values, 0.92 * width, label=label, color=color)
        texts = [form.format(value) for value in values]
        axes.bar_label(drawn, texts, fontsize=8, padding=2, bbox=WHITE)
    axes.set_xticks(range(len(names)), names)
    axes.margins(y=0.12)


def lost(pattern):
    """`{(net, method): (points lost when plain, when fitted)}` of the page on post-training."""
    found = {}
    for net, method, *cells in rows("post-training", pattern):
        if len(cells) > 2:  # the rows of peers have fewer
            float32 = number(net.split("(")[1])
            found[net.split()[0], method] = [100 * (float32 - number(c)) for c in cells[:2]]
    return found


def fitted_or_not(name, title, methods):
    """Points lost without training, of the plain kernels and of those fitted to 2,000 inputs."""
    found = lost("|".join(methods))
    names = [f"{NETS[net]}\n{method.removeprefix('SVD at ')}" for net, method in found]
    plain, fitted = zip(*found.values(), strict=True)
    axes = axes_of(title, "points of accuracy lost", width=max(7, 1.1 * len(names)))
    bars(axes, names, {"weights alone": (plain, GREY), "fitted to inputs": (fitted, BLUE)})
    axes.tick_params(axis="x", labelsize=8)
    finish(axes, name)


def quantized():
    methods = ["4 bits", "3 bits", "ternary", "binary"]
    found = lost(r"\d bits|ternary|binary")
    axes = axes_of("Few bits, without labels or training", "points of accuracy lost", "")
    for color, (net, shown) in zip(
        ("tab:blue", "tab:orange", "tab:green"), NETS.items(), strict=True
    ):
        plain, fitted = zip(*(found[net, method] for method in methods), strict=True)
        axes.plot(methods, fitted, "o-", color=color, label=f"{shown}, fitted to inputs")
        axes.plot(methods, plain, "o:", color=color, alpha=0.6, label=f"{shown}, weights alone")
    axes.set_yscale("symlog", linthresh=1)
    axes.set_yticks([0, 0.5, 1, 2, 5, 10, 20], ["0", "0.5", "1", "2", "5", "10", "20"])
    finish(axes, "quantized")


def pruning():
    head, *found = rows("pruning", r"score.*50%|^magnitude.*\(|^obd", "## LeNet-300-100")
    axes = axes_of("LeNet-300-100, pruned in training", "test accuracy", "weights that are zero")
    for (score, *cells), color in zip(found, (GREY, BLUE), strict=True):
        label = {"obd": "Optimal Brain Damage"}.get(score, score)
        axes.plot(head[1:], [number(cell) for cell in cells], "o-", color=color, label=label)
    finish(axes, "pruning")


def hashed_or_circulant(name, title, pattern):
    """Accuracy against parameters, beside a smaller Dense layer with as many."""
    found = rows("structured", pattern)
    dense = rows("structured", r"^Dense \|", "## Hashed" if name == "hashed" else "## Circulant")[0]
    axes = axes_of(title, "test accuracy", "parameters")
    axes.axhline(number(dense[2]), color="black", lw=1, label=f"Dense, {dense[1]} parameters")
    counts = [number(row[1]) for row in found]
    axes.plot(counts, [number(row[2]) for row in found], "o-", color=BLUE, label=name)
    smaller = [number(row[3]) for row in found]
    axes.plot(counts, smaller, "s--", color=GREY, label="Dense with fewer units")
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,.0f}" for count in counts])
    axes.minorticks_off()
    finish(axes, name)


def tensor():
    found = rows("low-rank", "4x fewer MACs \\|")
    plain, fitted = ([number(row[place]) for row in found] for place in (1, 2))
    axes = axes_of("A ResNet at a quarter of its MACs, not trained", "test accuracy")
    names = [row[0].split(",")[0] for row in found]
    shown = {"weights alone": (plain, GREY), "fitted to inputs": (fitted, BLUE)}
    bars(axes, names, shown, "{:.3f}")
    axes.axhline(0.9252, color="black", lw=1, label="float net")
    axes.set_ylim(0.5, 1.15)
    axes.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1])
    finish(axes, "tensor")


def discrete():
    found = rows("quantization", r"^(float32|B|L|ternary).*\.\d{4}", "## 784-512")[:11]
    axes = axes_of("784-512-512-512-10 with batch normalization", "", "test accuracy", 8)
    for place, (method, _, accuracy, spread, *_) in enumerate(found):
        low, high = map(number, spread.split(" to "))
        color = "black" if "float32" in method else BLUE
        axes.plot([low, high], [-place] * 2, color=color, lw=2, alpha=0.4)
        axes.plot(number(accuracy), -place, "o", color=color)
    axes.set_yticks([-place for place in range(len(found))], [row[0] for row in found])
    axes.grid(alpha=0.3)
    finish(axes, "discrete-training", legend=False)


def distillation():
    axes = axes_of("What the teacher adds: 20,000 images, few labels", "test accuracy", width=8)
    names, series = ["600 labels", "3,000 labels"], {}
    for label, color in (
        ("labels alone", GREY),
        ("teacher, on the labelled images", "tab:cyan"),
        ("teacher, on all images", BLUE),
        ("hint 2 epochs, then teacher, on all images", "navy"),
    ):
        values = [number(row[4]) for row in rows("distillation", f"^{label} \\|")[:2]]
        series[label] = values, color
    bars(axes, names, series, "{:.3f}")
    axes.set_ylim(0.5, 1.1)
    axes.set_yticks([0.5, 0.6, 0.7, 0.8, 0.9, 1])
    finish(axes, "distillation")


def export():
    """Times faster against times smaller than the float32 file, of Dense and convolution layers."""
    axes = axes_of("Layers in LiteRT, against the float32 file", "times faster", "times smaller", 9)
    labels, whole, kind = [], 1.0, ""
    for name, _, size, faster, *_ in rows("export", r"\d{3}.* \| \d", "| kernel")[:17]:
        if "stock" in name:
            whole, kind = number(size), "Dense" if "Dense" in name or "MLP" in name else "conv"
            continue
        label = re.sub(
            r"^Dense \S+ |Conv 3x3 256-256, 28x28, |the same, |, 4x fewer MACs", "", name
        )
        point = whole / number(size), number(faster)
        color = BLUE if kind == "Dense" else ORANGE
        axes.plot(*point, "o", color=color)
        labels.append((point, label, color))
    axes.plot([], [], "o", color=BLUE, label="Dense, 2048 x 2048")
    axes.plot([], [], "o", color=ORANGE, label="convolution, 3 x 3, 256 channels")
    axes.set(xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_xticks([3, 5, 10, 20], ["3", "5", "10", "20"])
    axes.set_yticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axes.margins(0.12)
    axes.legend(loc="lower left", fontsize=9)
    place_labels(axes, labels, [point for point, *_ in labels])
    finish(axes, "export", legend=False)


def archive():
    found = {row[0]: row for row in rows("archive", r"^(mlp|lenet|resnet) \| \S+ \| 0 ")}
    sizes = {"mlp": 1_069_236, "lenet": 251_092, "resnet": 894_680}  # .tflite in float32
    axes = axes_of("Ternary networks as a download", "bytes")
    small = [number(found[net][4]) for net in NETS]
    shown = {"float32 .tflite": ([sizes[net] for net in NETS], GREY), "archive": (small, BLUE)}
    bars(axes, list(NETS.values()), shown, "{:,.0f}")
    axes.set_yscale("log")
    axes.set_ylim(3000, 3e6)
    finish(axes, "archive")


def codebook():
    axes = axes_of("A codebook of 8 values, Dense n x n", "times faster", "n")
    for label, pattern, color in (
        ("8 values (3 bits)", r"^\d+, 8 entries", BLUE),
        ("binary (1 bit)", r"^\d+, binary", GREY),
    ):
        found = rows("export-structured", pattern)
        wide = [row[0].split(",")[0] for row in found]
        axes.plot(wide, [number(row[3]) for row in found], "o-", color=color, label=label)
    axes.axhline(1, color="black", lw=1, label="float32")
    finish(axes, "codebook")


def planning():
    found = rows("planning", r"\| 0 \| \d\.")
    axes = axes_of("A ResNet under a budget, not trained", "test accuracy", width=8)
    names = [row[0].replace(" of the ", "\nof the ") for row in found]
    single = [number(row[4]) for row in found], GREY
    shown = {"best single method": single, "plan": ([number(row[2]) for row in found], BLUE)}
    bars(axes, names, shown, "{:.3f}")
    page = (DOCS / "planning-benchmark.md").read_text()
    start = float(re.search(r"The float network has (0\.\d+)", page)[1])
    axes.axhline(start, color="black", lw=1, label="float net")
    axes.set_ylim(0.8, 0.96)
    finish(axes, "planning")


def recurrent():
    found = rows("recurrent", r"GRU|LSTM")
    nets = [row[0].split(" (")[0].replace(", ", "\n") for row in found]
    nets = [re.sub(r"(takes|speaker) held out", r"other \1", net) for net in nets]
    names = [f"{net}\n{row[1]}" for net, row in zip(nets, found, strict=True)]
    axes = axes_of(
        "Recurrent layers, without labels or training", "points of accuracy lost", width=13
    )
    plain, fitted = ([number(row[place]) for row in found] for place in (2, 3))
    bars(axes, names, {"weights alone": (plain, GREY), "fitted to inputs": (fitted, BLUE)})
    axes.tick_params(axis="x", labelsize=8)
    finish(axes, "recurrent")


def draw_pareto(points, path, title, measure="accuracy"):
    """The files of `compress` in blue, those of other tools in grey, and the front of all.

    Args:
        points: dict `{label: (bytes, share that is right)}`.
        measure: the name of that share.
    """
    axes = new_axes(title, "size of the .tflite file")
    axes.set_ylabel(f"{measure} in LiteRT")
    labels = []
    for label, point in points.items():
        color = BLUE if label.startswith("compress") else "0.4"
        axes.plot(*point, "o", color=color)
        labels.append((point, label, color))
    axes.plot([], [], "o", color=BLUE, label="tfcompress")
    axes.plot([], [], "o", color="0.4", label="other tools")
    line = draw_front(axes, list(points.values()), points.get("float32"))
    axes.margins(0.2, 0.15)
    axes.legend(loc="lower right")
    place_labels(axes, labels, [*points.values(), *line])
    axes.figure.savefig(path)


def pareto():
    for net, shown in NETS.items():
        found = rows("pareto", rf"^{net} \|")
        points = {row[1]: (number(row[4]), number(row[2])) for row in found}
        draw_pareto(points, DOCS / f"pareto-{net}.png", f"{shown}, Fashion-MNIST")


def main():
    fitted_or_not("binary", "Binary weights, without labels or training", ["binary"])
    fitted_or_not("low-rank", "Low rank (SVD), without labels or training", ["SVD"])
    quantized()
    pruning()
    hashed_or_circulant("hashed", "784-1000-10, hashed", r"^hashed 1/\d+ \|")
    hashed_or_circulant("circulant", "1024-1024-1024-10, circulant", r"^(one|blocks).*, signs")
    for draw in (
        tensor,
        discrete,
        distillation,
        export,
        archive,
        codebook,
        planning,
        recurrent,
        pareto,
    ):
        draw()


if __name__ == "__main__":
    main()
