import pytest

from tfcompress.utils.budgets import Limit, read_limits


@pytest.mark.parametrize(
    ("budget", "target", "limits"),
    [
        (0.1, "bits", {"bits": Limit(0.1, True)}),
        (1, "tflite", {"tflite": Limit(1.0, True)}),
        (80_000, "tflite", {"tflite": Limit(80_000.0, False)}),
        (0.5, "milliseconds", {"milliseconds": Limit(0.5, True)}),
        (5, "milliseconds", {"milliseconds": Limit(5.0, False)}),
        ("0.5ms", "bits", {"milliseconds": Limit(0.5, False)}),
        ("250 us", "bits", {"milliseconds": Limit(0.25, False)}),
        ("2s", "bits", {"milliseconds": Limit(2000.0, False)}),
        ({"macs": 0.5}, "bits", {"macs": Limit(0.5, True)}),
    ],
)
def test_a_budget_is_a_share_or_a_number(budget, target, limits):
    assert read_limits(budget, target) == limits


def test_of_two_budgets_time_comes_last():
    found = read_limits({"milliseconds": 5, "tflite": 0.1}, "bits")
    assert list(found.items()) == [("tflite", Limit(0.1, True)), ("milliseconds", Limit(5, False))]


def test_a_limit_in_the_unit_of_the_cost():
    assert Limit(0.5, True).of(300, 8) == 150
    assert Limit(20, False).of(300, 8) == 160


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ("5", ValueError, "'5ms' or '300us'"),
        ("-5ms", ValueError, "'5ms' or '300us'"),
        ("0ms", ValueError, "'5ms' or '300us'"),
        ("1.2.3ms", ValueError, "'5ms' or '300us'"),
        ([5], TypeError, "number"),
        (0, ValueError, "> 0"),
        (50, ValueError, "Did you mean 50%"),
        ({}, ValueError, "one target, or two"),
        ({"bits": 0.1, "macs": 0.1}, ValueError, "one of which|of which one is 'milliseconds'"),
        ({"bytes": 0.1}, ValueError, "target of `budget`.*'bytes'"),
        ({"milliseconds": -1, "bits": 0.1}, ValueError, "> 0"),
        ({"milliseconds": True}, TypeError, "number"),
    ],
)
def test_what_is_no_budget_is_refused(budget, error, message):
    with pytest.raises(error, match=message):
        read_limits(budget, "bits")
