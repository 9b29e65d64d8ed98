"""Plans for milliseconds, on a machine whose times are known."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from clockwork import milliseconds

import tfcompress as tfc
from tfcompress.planning import planner
from tfcompress.planning.latency import measured
from tfcompress.planning.latency.clock import Clock
from tfcompress.planning.latency.layer_times import LayerTimes, file_key, read_times
from tfcompress.planning.latency.ledger import Ledger
from tfcompress.planning.plan_result import Option
from tfcompress.tflite.reader import read, type_name


def test_the_budget_holds_and_the_file_is_what_was_timed(clockwork, net, x, forms):
    plan = tfc.plan(net, x, 0.4, "milliseconds", candidates=forms)
    whole = milliseconds(net)
    assert plan.float_milliseconds == plan.float_cost == pytest.approx(whole, rel=1e-9)
    assert plan.milliseconds == plan.cost == pytest.approx(milliseconds(plan.model), rel=1e-9)
    assert plan.cost <= plan.budget == pytest.approx(0.4 * whole, rel=1e-9)
    assert f"{plan.cost:.4g} milliseconds of {whole:.4g}" in str(plan)
    # nothing is timed again but the file of the plan
    before = len(clockwork.runs)
    again = tfc.plan(net, x, f"{plan.budget}ms", candidates=forms)
    assert again.chosen == plan.chosen
    assert clockwork.runs[before:] == [["float32", "compressed"]] * (len(clockwork.runs) - before)


def test_a_plan_is_a_function_of_its_table(clockwork, net, x, forms, tmp_path):
    path = tmp_path / "times.json"
    times = tfc.time_layers(net, path, candidates=forms)
    assert read_times(path) == times
    clockwork.runs.clear()
    plans = [tfc.plan(net, x, 0.4, "milliseconds", candidates=forms, latency=path)]
    plans.append(tfc.plan(net, x, 0.4, "milliseconds", candidates=forms, latency=times))
    assert plans[0].chosen == plans[1].chosen and plans[0].cost == plans[1].cost
    assert not clockwork.runs
    saved = sum(row[-1].cost - plans[0].chosen[p].cost for p, row in plans[0].options.items())
    assert plans[0].cost == pytest.approx(plans[0].float_cost - saved, rel=1e-12)
    # with four times the time of all 4-bit files, other forms are chosen
    slow = {k: 4 * ms if "bits=4" in k else ms for k, ms in times.milliseconds.items()}
    other = LayerTimes(times.runtime, times.processor, 1, slow)
    plan = tfc.plan(net, x, 0.5, "milliseconds", candidates=forms, latency=other)
    assert "4 bits" not in {option.name for option in plan.chosen.values()}
    with pytest.raises(ValueError, match=r"No time is known of .*bits=3"):
        three = tfc.layers.QuantizedDense.using(bits=3)
        tfc.plan(net, x, 0.5, "milliseconds", candidates=three, latency=path)


def test_a_whole_file_that_saves_less_corrects_the_plan(clockwork, net, x, forms):
    clockwork.slower = 1.3
    plan = tfc.plan(net, x, 0.5, "milliseconds", candidates=forms)
    assert plan.milliseconds == pytest.approx(1.3 * milliseconds(plan.model), rel=1e-9)
    assert plan.milliseconds <= plan.budget
    clockwork.slower = 30.0
    with pytest.raises(ValueError, match=r"fastest forms take|plans took"):
        tfc.plan(net, x, 0.5, "milliseconds", candidates=forms)


def test_two_budgets_hold_at_once(clockwork, net, x, forms):
    budget = {"milliseconds": 0.3, "bits": 0.5}
    plan = tfc.plan(net, x, budget, candidates=forms)
    assert plan.target == "bits" and plan.cost <= plan.budget == int(0.5 * plan.float_cost)
    assert plan.milliseconds <= 0.3 * plan.float_milliseconds
    assert plan.milliseconds == pytest.approx(milliseconds(plan.model), rel=1e-9)
    assert "bits of" in str(plan) and "milliseconds of" in str(plan)
    with pytest.raises(ValueError, match=r"fastest forms take .* Received: 0\.0001 ms"):
        tfc.plan(net, x, {"milliseconds": "0.1us", "bits": 0.5})


def test_a_model_of_unknown_sizes_is_refused(clockwork):
    start = keras.Input((None, 8))
    model = keras.Model(start, keras.layers.Dense(64, name="fc")(start))
    x = np.ones((16, 3, 8), "float32")
    with pytest.raises(ValueError, match=r"known sizes.*\(None, None, 8\) for fc"):
        tfc.plan(model, x, 0.5, "milliseconds")


@pytest.fixture
def few_forms(monkeypatch, forms):
    monkeypatch.setattr(planner, "default_candidates", lambda target: forms)


def test_compress_to_a_time_and_a_size(clockwork, few_forms, net, x):
    made = tfc.compress(net, x, {"tflite": 0.5, "milliseconds": 0.4}, fine_tune=0)
    assert made.size == len(made.tflite) <= 0.5 * len(tfc.to_tflite(net))
    assert made.plan.milliseconds == pytest.approx(milliseconds(made.tflite), rel=1e-9)
    assert made.plan.milliseconds <= 0.4 * milliseconds(net)


def test_compress_to_a_time(clockwork, few_forms, net, x):
    made = tfc.compress(net, x, 0.4, target="milliseconds", fine_tune=0)
    assert made.size == made.plan.milliseconds <= 0.4 * milliseconds(net)
    assert made.size == pytest.approx(milliseconds(made.tflite), rel=1e-9)
    assert " ms, change of the outputs" in repr(made)


def test_compress_to_a_time_in_integers(clockwork, few_forms, net, x):
    given = {"fine_tune": 0, "activations": "static_int8"}
    made = tfc.compress(net, x, 0.4, target="milliseconds", **given)
    assert made.size == made.plan.milliseconds <= 0.4 * milliseconds(net)
    assert made.size == pytest.approx(milliseconds(made.tflite), rel=1e-9)
    kinds = {type_name(tensor) for tensor in read(made.tflite).subgraphs[0].tensors[1:-1]}
    assert "FLOAT32" not in kinds
    both = tfc.compress(net, x, {"tflite": 0.4, "milliseconds": 0.5}, **given)
    assert both.size == len(both.tflite) <= 0.4 * len(tfc.to_tflite(net))
    assert both.plan.milliseconds <= 0.5 * milliseconds(net)


def test_the_smallest_file_of_a_convolution_is_the_one_that_is_timed(clockwork):
    keras.utils.set_random_seed(0)
    parts = [keras.layers.Conv2D(32, 5, name="conv"), keras.layers.GlobalAveragePooling2D()]
    net = keras.Sequential([keras.Input((6, 6, 64)), *parts])
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 64)).astype("float32")
    four = {"4 bits": tfc.layers.QuantizedConv2D.using(bits=4)}
    plan = tfc.plan(net, x, 0.5, "milliseconds", candidates=four, store="small")
    assert plan.chosen["conv"].name == "4 bits"
    written = tfc.to_tflite(plan.model, store="small", check=x)  # with an int8 convolution
    assert plan.milliseconds == pytest.approx(milliseconds(written), rel=1e-9)


def test_a_table_tells_files_in_integers_from_others(clockwork, few_forms, net, x, tmp_path):
    path = tmp_path / "times.json"
    given = {"target": "milliseconds", "fine_tune": 0, "latency": path}
    tfc.time_layers(net, path, candidates=planner.default_candidates("milliseconds"))
    with pytest.raises(ValueError, match=r"No time is known of .*static_int8"):
        tfc.compress(net, x, 0.4, activations="static_int8", **given)
    tfc.time_layers(
        net, path, candidates=planner.default_candidates(""), activations="static_int8", data=x
    )
    made = tfc.compress(net, x, 0.4, activations="static_int8", **given)
    assert made.plan.milliseconds <= 0.4 * milliseconds(net)


def test_a_search_beside_others_needs_a_table(net, x):
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="`latency`"):
        tfc.search(net, x, "5ms", executor=executor)


def test_a_table_of_another_machine_is_not_mixed(clockwork, net, tmp_path, forms):
    path = tmp_path / "times.json"
    LayerTimes("benchmark_model 1", "a phone").write(path)
    with pytest.raises(ValueError, match=r"holds those of .*a phone"):
        tfc.time_layers(net, path, candidates=forms)


def test_a_subclassed_model_needs_examples(clockwork, tmp_path):
    class Doubled(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = keras.layers.Dense(64, name="fc")

        def call(self, x):
            return 2 * self.fc(x)

    model, path = Doubled(), tmp_path / "times.json"
    model(np.ones((1, 8), "float32"))
    with pytest.raises(ValueError, match="examples as `data`"):
        tfc.time_layers(model, path)
    forms = tfc.layers.QuantizedDense.using(bits=8)
    times = tfc.time_layers(model, path, candidates=forms, data=np.ones((9, 8), "float32"))
    assert any(key.startswith("[1, 8] QuantizedDense") for key in times.milliseconds)


def rows(*layers):
    return {
        str(i): [Option(f"{i}{k}", object(), *row) for k, row in enumerate(layer)]
        for i, layer in enumerate(layers)
    }


def test_the_ledger_chooses_the_best_of_all():
    rng = np.random.default_rng(0)
    options = rows(
        *(
            [
                (int(cost), 0.0, harm, (), ms)
                for cost, harm, ms in zip(
                    sorted(rng.integers(1, 100, 4)), rng.random(4), rng.random(4), strict=True
                )
            ]
            for _ in range(4)
        )
    )
    clock = clock_of(options, 5.0)
    ends = [
        clock.of({p: f(row, key=lambda o: o.milliseconds) for p, row in options.items()})
        for f in (min, max)
    ]
    ledger = Ledger(options, "bits", 7, clock, 0.6 * ends[0] + 0.4 * ends[1])
    ways = [dict(zip(options, way, strict=True)) for way in itertools.product(*options.values())]

    def fits(way, allowed):
        return ledger.cost_of(way) <= allowed and clock.of(way) <= ledger.time + 1e-9

    def harm(way):
        return sum(option.measured for option in way.values())

    for allowed in (120, 150, 200):
        best = min((harm(way) for way in ways if fits(way, allowed)), default=None)
        if best is None:
            with pytest.raises(ValueError, match="ms"):
                ledger.choose(allowed, None)
            continue
        chosen = ledger.choose(allowed, None)
        assert fits(chosen, allowed) and harm(chosen) == pytest.approx(best, rel=1e-12)
    least = min(ledger.cost_of(way) for way in ways if fits(way, 10**6))
    assert ledger.cost_of(ledger.smallest()) == least


def clock_of(options, whole):
    blob = tfc.to_tflite(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]))
    times = LayerTimes("LiteRT", "here", 1, {file_key(blob): whole})
    return Clock(options, times, [blob, blob], "fast", "float32", None)


def test_the_clock_learns_what_share_of_the_saving_is_seen(monkeypatch):
    options = rows([(1, 0.0, 1.0, (), 1.0), (4, 0.0, 0.0, (), 3.0)])
    clock = clock_of(options, 5.0)
    fast = {"0": options["0"][0]}
    assert clock.of(fast) == 3.0 and clock.room(4.0) == 2.0
    clock.timer = lambda blobs: [[2.0, 3.0, 2.0], [1.6, 2.4, 9.0]]  # 4 of 5 ms
    model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
    assert clock.seen(model, fast) == pytest.approx(4.0, rel=1e-12)
    assert clock.share == 0.5 and clock.of(fast) == 4.0 and clock.room(4.5) == 2.0


def test_what_is_timed_is_kept_for_the_next_plan(clockwork, net, x, forms, tmp_path):
    tfc.plan(net, x, 0.9, "milliseconds", candidates=forms)
    table = read_times(tmp_path / "kept.json")
    assert table.processor == measured.of_this_machine().processor
    count = len(clockwork.runs)
    tfc.plan(net, x, 0.9, "milliseconds", candidates=[tfc.layers.QuantizedDense.using(bits=3)])
    later = read_times(tmp_path / "kept.json").milliseconds
    assert later.items() >= table.milliseconds.items() and len(clockwork.runs) > count
