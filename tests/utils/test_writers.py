"""Writers: whole files or none, whatever ends the process and whoever else writes."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading

import pytest

from tfcompress.utils.errors import WriteError
from tfcompress.utils.writers import replacing, temporary_folder, write_file

WRITE_AND_WAIT = """
import sys, time
from tfcompress.utils.writers import replacing, temporary_folder
with replacing(sys.argv[1]) as file, temporary_folder() as folder:
    file.write(b"half")
    file.flush()
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def started(path):
    command = [sys.executable, "-c", WRITE_AND_WAIT, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, pathlib.Path(process.stdout.readline().strip())


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_clears(tmp_path, temporary):
    path = tmp_path / "net.tfc"
    path.write_bytes(b"old")
    process, folder = started(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.glob(".tfcompress-*"))) == 1 and folder.is_dir()
    write_file(path, b"new")
    with temporary_folder():
        assert not folder.exists()
    assert path.read_bytes() == b"new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.tfc", "temporary"]
    assert not list(temporary.iterdir())


def test_a_living_writer_is_left_alone(tmp_path, temporary):
    path = tmp_path / "net.tfc"
    process, folder = started(path)
    write_file(path, b"new")
    with temporary_folder():
        pass
    assert len(list(tmp_path.glob(".tfcompress-*"))) == 1 and folder.is_dir()
    process.kill()
    process.wait()


def test_threads_on_one_path_leave_one_whole_file(tmp_path):
    path, errors = tmp_path / "a.bin", []
    contents = [bytes([letter]) * 300_000 for letter in b"ABCD"]

    def write(content):
        try:
            for _ in range(20):
                write_file(path, content)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("name", ["net.keras", "net", "n" * 255, "\udcff.png", "a\nb.json"])
def test_names_and_endings(tmp_path, name):
    with replacing(tmp_path / name) as file:
        assert pathlib.Path(file.name).suffix == pathlib.Path(name).suffix
        pathlib.Path(file.name).write_bytes(b"by name")  # as savefig does
    assert (tmp_path / name).read_bytes() == b"by name"
    assert len(os.listdir(tmp_path)) == 1


def test_modes(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    old.touch()
    old.chmod(0o640)
    before = os.umask(0o027)
    try:
        write_file(new, b"")
    finally:
        os.umask(before)
    write_file(old, b"")
    assert new.stat().st_mode & 0o777 == 0o640
    assert old.stat().st_mode & 0o777 == 0o640
    old.chmod(0o604)
    write_file(old, b"")
    assert old.stat().st_mode & 0o777 == 0o604


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    link, target = tmp_path / "link", tmp_path / "far" / "file"
    link.symlink_to("far/file")
    for content in ("made", "replaced"):
        write_file(link, content)
        assert link.is_symlink() and target.read_text() == content


@pytest.fixture
def small_disk():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_file(tmp_path, small_disk):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(WriteError, match=r"Cannot write '.*/a': no space is left"):
        write_file(path, bytes(20_000))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_temporary_folder_is_named(temporary, small_disk):
    with pytest.raises(WriteError, match="TMPDIR"), temporary_folder() as folder:
        pathlib.Path(folder, "a").write_bytes(bytes(20_000))
    assert not list(temporary.iterdir())


def test_errors_of_the_block_stay_what_they_are(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError), replacing(path):
        (tmp_path / "missing").read_text()
    with pytest.raises(KeyError), temporary_folder():
        raise KeyError("x")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["missing/a", "folder", "file/a"])
def test_paths_that_cannot_be_written(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="Cannot write"):
        write_file(tmp_path / name, b"x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_files_of_others_with_like_names_stay(tmp_path):
    names = [".tfcompress-x", "tfcompress-0123456789abcdef", ".tfcompress-0123456789abcdef0"]
    for name in names:
        (tmp_path / name).touch()
    write_file(tmp_path / "a", b"x")
    assert set(os.listdir(tmp_path)) == {*names, "a"}
