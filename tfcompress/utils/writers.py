"""Files that are there whole or not at all, and temporary folders that do not pile up.

A file is written under another name beside its target, `.tfcompress-<random>`, and renamed.
Whoever writes holds a lock (`flock`) on it, which the system lets go when the process ends however
it ends: so the next writer in the same folder tells what a dead one left from what a living one is
at work on. Temporary folders, `tfcompress-<random>`, are locked in the same way.
"""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from tfcompress.utils.errors import WriteError

try:
    import fcntl
except ImportError:  # Windows, which refuses to remove what is open: no lock is needed
    fcntl = None

PART = re.compile(r"\.tfcompress-[0-9a-f]{16}(\..*)?", re.DOTALL)
FOLDER = re.compile(r"tfcompress-[0-9a-f]{16}")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_file(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a whole file in one step; text as UTF-8. See `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a new file that takes the place of `path` when the block ends without an error.

    Until then, and if it ends with one, the old file is as it was. The new one has the old one's
    mode, or that of the umask; where `path` is a symbolic link, the file that it points to is
    replaced. What writers that were killed have left in the folder is removed.

    Args:
        path: of the file, in a folder that exists.

    Yields:
        The file, open for reading and writing of bytes. What writes by name, as `savefig`, takes
        `file.name`, which has the ending of `path`.

    Raises:
        WriteError: no such folder, no permission, or the disk is full.

    Example:

    >>> path = os.path.join(tempfile.mkdtemp(), "answer.txt")
    >>> with replacing(path) as file:
    ...     file.write(b"42")
    2
    >>> open(path).read()
    '42'
    """
    target = os.path.realpath(path)
    with _explained(path):
        _remove_leftovers(os.path.dirname(target), PART)
        file = _new_file(target)
    try:
        with _explained(path, every=False):
            yield file
        with _explained(path):
            file.flush()
            os.fsync(file.fileno())
            if fcntl is None:  # Windows renames only what is closed
                file.close()
            os.replace(file.name, target)
    finally:
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(FileNotFoundError):  # it has been renamed
            os.unlink(file.name)


def save_figure(figure: Any, path: str | os.PathLike) -> None:
    """Writes a matplotlib figure in one step.

    Raises:
        ValueError: matplotlib does not write files with this ending.
        WriteError: see `replacing`.
    """
    kinds = figure.canvas.get_supported_filetypes()
    kind = pathlib.Path(path).suffix[1:].lower()
    if kind not in kinds:
        raise ValueError(
            f"Expected `path` to end in one of {', '.join(f'.{k}' for k in sorted(kinds))}. "
            f"Received: {os.fspath(path)!r}"
        )
    with replacing(path) as file:
        figure.savefig(file, format=kind)


def save_model(model: Any, path: str | os.PathLike) -> None:
    """Writes a Keras model into a `.keras` file in one step; see `replacing`."""
    with replacing(path) as file:
        model.save(file.name)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
    """Makes a folder for temporary files, which is removed when the block ends.

    Those of processes that were killed are removed first.

    Raises:
        WriteError: the disk is full.
    """
    parent, folder, held = tempfile.gettempdir(), None, None
    try:
        _remove_leftovers(parent, FOLDER)
        folder, held = _new_folder(parent)
        yield folder
    except Exception as error:
        if not _is_full(error):
            raise
        raise WriteError(
            f"The folder of temporary files, {parent!r}, has no space left. Make room in it, or "
            "name another one in the environment variable TMPDIR."
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _new_file(target) -> BinaryIO:
    """A locked new file beside the target, with the mode that the target shall have."""
    old = os.stat(target) if os.path.exists(target) else None
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise WriteError(f"Cannot write {target!r}: it is a folder or a device.")
    suffix = pathlib.Path(target).suffix[:32]
    while True:
        name = f".tfcompress-{secrets.token_hex(8)}{suffix}"
        name = os.path.join(os.path.dirname(target), name)
        file = open(name, "x+b")  # noqa: SIM115
        if _locked(file.fileno(), name):
            break
        file.close()
    if old is not None:
        os.chmod(name, stat.S_IMODE(old.st_mode))
    return file


def _new_folder(parent) -> tuple[str, int | None]:
    while True:
        folder = os.path.join(parent, f"tfcompress-{secrets.token_hex(8)}")
        os.mkdir(folder, 0o700)
        if fcntl is None:
            return folder, None
        try:
            held = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another writer has taken it for a leftover already
            continue
        if _locked(held, folder):
            return folder, held
        os.close(held)


def _locked(descriptor, name) -> bool:
    """Locks what was just made; False if another writer has taken it for a leftover meanwhile."""
    if not _lock(descriptor):
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False


def _lock(descriptor) -> bool:
    """Whether nobody else holds a lock; it is held until the descriptor is closed."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _remove_leftovers(folder, pattern) -> None:
    """Removes what matches and whose writer lives no more."""
    try:
        entries = list(os.scandir(folder))
    except PermissionError:  # to list it; one may be allowed to write there all the same
        return
    for entry in entries:
        if not pattern.fullmatch(entry.name) or entry.is_symlink():
            continue
        with contextlib.suppress(OSError):  # of another user, or removed by another writer
            if fcntl is None:
                _remove(entry.path)
                continue
            held = os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if _lock(held):
                    _remove(entry.path)
            finally:
                os.close(held)


def _remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


@contextlib.contextmanager
def _explained(path, every=True):
    """Turns errors of the system into a `WriteError`; without `every` only that of a full disk."""
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        if _is_full(error):
            reason = "no space is left on the disk, so the old file, if any, is as it was"
        elif every and isinstance(error, OSError):
            reason = error.strerror or str(error)
        else:
            raise
        raise WriteError(f"Cannot write {os.fspath(path)!r}: {reason}.") from error


def _is_full(error) -> bool:
    # TensorFlow and HDF5 have errors of their own, with the system's words in them.
    words = any(os.strerror(number) in str(error) for number in FULL)
    return getattr(error, "errno", None) in FULL or words
