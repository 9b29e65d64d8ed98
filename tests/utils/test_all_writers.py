"""Each writer of the package: a full disk, kill -9, two writers at once."""

import os
import pathlib
import queue
import resource
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

import tfcompress as tfc
from tfcompress.utils.errors import WriteError
from tfcompress.utils.writers import save_figure, save_model


def net():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((200,)), keras.layers.Dense(40, name="fc")], name="net")


def picture():
    from matplotlib.figure import Figure

    figure = Figure()
    figure.subplots().plot([1, 2, 4])
    return figure


def prepared():
    """`{ending: function of a path}`: what writes a file of some kilobytes at least."""
    model = net()
    small = tfc.swap(model, {"fc": tfc.layers.TernaryDense})
    report, figure = tfc.report(small, baseline=model), picture()
    distiller = tfc.Distiller(student=model, teacher=keras.models.clone_model(model))
    x = np.ones((100, 200), "float32")
    return {
        ".html": report.to_html,
        ".png": lambda path: save_figure(figure, path),
        ".tflite": lambda path: tfc.to_tflite(model, path, check=x[:2]),
        ".tfc": lambda path: tfc.archive.save(model, path),
        ".keras": lambda path: save_model(model, path),
        "": lambda path: distiller.cache_teacher(x, path.parent),
    }


@pytest.fixture(scope="module")
def writers():
    return prepared()


ENDINGS = [".html", ".png", ".tflite", ".tfc", ".keras", ""]


def target(folder, ending):
    """The file that a writer makes; an empty ending stands for a cache of a teacher."""
    if ending:
        return folder / f"file{ending}"
    (folder / "cache").mkdir(exist_ok=True)
    return folder / "cache" / "0.npy"


@pytest.fixture
def full_disk(tmp_path):
    """A function that leaves next to no room: a small file system, or else a limit of file size."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        if mounted:
            (disk / "ballast").write_bytes(bytes(60_000))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    yield disk, fill
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk_leaves_the_old_file_and_says_so(ending, writers, full_disk):
    disk, fill = full_disk
    path = target(disk, ending)
    path.write_bytes(b"old")
    fill()
    with pytest.raises(WriteError, match=r"Cannot write '.*': no space is left on the disk"):
        writers[ending](path)
    assert path.read_bytes() == b"old"
    assert {p.name for p in path.parent.iterdir()} <= {path.name, "ballast", "cache"}


def test_a_full_folder_of_temporary_files_is_named(full_disk, tmp_path, monkeypatch):
    disk, fill = full_disk
    fill()
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(
        WriteError, match=r"folder of temporary files, '.*', has no space left.*TMP"
    ):
        tfc.to_tflite(net(), tmp_path / "a.tflite")
    assert not list(tmp_path.glob("*.tflite"))
    assert {p.name for p in disk.iterdir()} <= {"ballast"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_writers_leave_one_whole_file(ending, writers, tmp_path):
    path, errors = target(tmp_path, ending), []

    def write():
        try:
            for _ in range(3):
                writers[ending](path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(path.read_bytes()) > 1000
    assert not list(path.parent.glob(".tfcompress-*"))


def hang_and_die(folder):
    """Every writer comes as far as the renaming, each in a thread; then the process is killed."""
    reached = queue.Queue()

    def hang(source, path):
        reached.put(path)
        threading.Event().wait()

    os.replace = hang
    for ending, write in prepared().items():
        path = target(folder / f"of{ending}", ending)
        threading.Thread(target=write, args=(path,), daemon=True).start()
        reached.get(timeout=60)
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_writers_leave_the_old_files_and_the_next_ones_clear(writers, tmp_path):
    for ending in ENDINGS:
        folder = tmp_path / f"of{ending}"
        folder.mkdir()
        target(folder, ending).write_bytes(b"old")
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    for ending in ENDINGS:
        path = target(tmp_path / f"of{ending}", ending)
        assert path.read_bytes() == b"old"
        assert len(list(path.parent.glob(".tfcompress-*"))) == 1
        writers[ending](path)
        assert len(path.read_bytes()) > 1000
        assert [p.name for p in path.parent.iterdir()] == [path.name]


if __name__ == "__main__":
    hang_and_die(pathlib.Path(sys.argv[1]))
