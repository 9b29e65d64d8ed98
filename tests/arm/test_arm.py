"""Every form of file on emulated ARM64 CPUs, against float64; see `fetch.sh` for what it needs.

    pytest -n 0 tests/arm

Emulation shows whether results are right, and nothing about speed.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import guest
import pytest
from arm_files import OLD, make_cases, problems, write_files
from known_bad import known_bad
from oracles_forms import FORMS

from tfcompress.tflite.runtimes import parse_version

CURRENT, OLDER, OLDEST = version("ai-edge-litert"), "1.4.0", "1.2.0"
ALL, ONE = tuple(guest.CPUS), ("cortex-a76",)
RUNS = {CURRENT: ALL, "2.1.2": ONE, OLDER: ALL, OLDEST: ONE}
BAD = {  # the version that gets it wrong
    "INT2 filter": CURRENT,
    "sparse blocks in version 12": CURRENT,
    "sparse entries as they are": CURRENT,
    "unpacked in version 12": CURRENT,
    "INT4 weight of -8": CURRENT,
    "symmetric activations": OLDER,
    "symmetric, unpacked": OLDER,
    "INT2": OLDER,
    "version 14": OLDER,
    "float16 DENSIFY": OLDER,
}
pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="it runs by `pytest -n 0`"),
    pytest.mark.skipif(guest.missing(RUNS) is not None, reason=str(guest.missing(RUNS))),
]


@pytest.fixture(scope="module")
def cases():
    good = make_cases()
    return good | {f"bad: {name}": case for name, case in known_bad(good).items()}


@pytest.fixture(scope="module")
def runs(cases, tmp_path_factory):
    """`{(version, cpu): folder of results}`; two runs at a time."""
    folder = tmp_path_factory.mktemp("arm")
    write_files(cases, folder / "files")

    def run(job):
        number, cpu = job
        place = folder / f"{number} {cpu}"
        guest.run(cpu, number, folder / "files", place / "results", place / "root")
        return place / "results"

    jobs = [(number, cpu) for number, cpus in RUNS.items() for cpu in cpus]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(jobs, pool.map(run, jobs), strict=True))


@pytest.mark.parametrize("number", RUNS)
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_right_on_arm(name, number, cases, runs):
    files = [file for file in (name, f"{name}, {OLD}") if file in cases]
    files = [file for file in files if parse_version(cases[file].runtime) <= parse_version(number)]
    assert files
    for file in files:
        for cpu in RUNS[number]:
            wrong = problems(runs[number, cpu], file, cases[file])
            assert not wrong, f"{file} by LiteRT {number} on {cpu}: {wrong}"


@pytest.mark.parametrize("cpu", guest.CPUS)
@pytest.mark.parametrize("name", BAD)
def test_known_bad_files_are_noticed(name, cpu, cases, runs):
    file = f"bad: {name}"
    assert problems(runs[BAD[name], cpu], file, cases[file])
