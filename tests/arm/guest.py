"""Python and LiteRT for ARM64, run by qemu as a program: no machine, no kernel, no container."""

import os
import pathlib
import shutil
import subprocess

FOLDER = pathlib.Path(__file__).parents[2] / "build/arm"  # of `fetch.sh`
QEMU = "qemu-aarch64-static"
LIMIT = 900  # seconds of one run
# qemu's name of each CPU, and the part number that LiteRT looks for in /proc/cpuinfo
CPUS = {
    "cortex-a53": "0xd03",  # ARMv8.0: no dot products
    "cortex-a76": "0xd0b",  # dot products (sdot)
    "max,sve=off,sme=off": "0xd47",  # int8 matrix products (i8mm), as Cortex-A710
}
CORES = 2  # with one core of part 0xd47 LiteRT 2.3 crashes
CPUINFO = """processor\t: {core}
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: {part}
CPU revision\t: 0

"""


def missing(versions) -> str | None:
    """Why nothing can run, or None."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed: apt-get install qemu-user-static"
    needed = [f"litert-{version}" for version in versions] + ["numpy", "debian/usr/bin/python3"]
    absent = [name for name in needed if not os.path.lexists(FOLDER / name)]
    if absent:
        return f"build/arm lacks {absent}: run tests/arm/fetch.sh"
    return None


def run(cpu, version, files, results, folder) -> None:
    """Runs the files of a folder by one version of LiteRT on one CPU; see `run_files.py`.

    Args:
        folder: for a view of the guest's root with the CPU's own /proc/cpuinfo. Without that the
            emulated LiteRT sees the host's, finds no ARM core in it and crashes.
    """
    (folder / "proc").mkdir(parents=True)
    for entry in (FOLDER / "debian").iterdir():
        (folder / entry.name).symlink_to(entry)
    cores = [CPUINFO.format(core=core, part=CPUS[cpu]) for core in range(CORES)]
    (folder / "proc/cpuinfo").write_text("".join(cores))
    packages = f"{FOLDER / f'litert-{version}'}:{FOLDER / 'numpy'}"
    script = pathlib.Path(__file__).with_name("run_files.py")
    python = FOLDER / "debian/usr/bin/python3"
    command = [QEMU, "-cpu", cpu, "-L", folder, "-E", "PYTHONHOME=/usr"]
    command += ["-E", f"PYTHONPATH={packages}", python, script, files, results]
    subprocess.run(command, check=True, timeout=LIMIT, capture_output=True)
