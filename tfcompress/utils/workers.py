"""Work that is handed to the workers of an executor, or done at once without one.

A task is a plain function of what many tasks share and of arguments of its own. What is shared is
made once in each process and thread: a thread makes it of the very parts, another process of
pickled ones, in which models are `.keras` files.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib
import io
import multiprocessing
import os
import pickle
import re
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from typing import Any, NamedTuple

import keras

from tfcompress.utils.progress import showing
from tfcompress.utils.writers import temporary_folder

WAITING_BYTES = 2**29  # of the arguments of tasks that are submitted and not done
_here = threading.local()  # in a worker process: what its last tasks shared, and the key of that


class Shared:
    """What many tasks need: `make(*parts)`, made where the tasks run.

    Args:
        make: a class or function of a module.
        *parts: what it takes: models, arrays, plain Python objects.
        mine: what it would make in this process, if that is there already.
    """

    def __init__(self, make: Callable[..., Any], *parts: Any, mine: Any = None) -> None:
        self.make, self.parts, self._mine = make, parts, mine
        self._of_thread = threading.local()

    def mine(self) -> Any:
        """What tasks use that run one after the other in this process."""
        if self._mine is None:
            self._mine = self.make(*self.parts)
        return self._mine

    def of_thread(self) -> Any:
        """What the tasks of this thread use."""
        if not hasattr(self._of_thread, "made"):
            self._of_thread.made = self.make(*self.parts)
        return self._of_thread.made


class Workers:
    """Submits tasks to an executor; used as a context, whose end cancels what has not begun.

    If the worker that has a task dies, the task is run once more; an error of that names it.

    Args:
        executor: any `concurrent.futures.Executor`, or None to run each task when it is submitted.

    Raises:
        TypeError: it is no executor.
        ValueError: it forks processes, in which TensorFlow stops without a word.
    """

    def __init__(self, executor: Executor | None) -> None:
        check_executor(executor)
        self.executor, self.ended = executor, contextlib.ExitStack()
        self.folder: str | None = None
        self.waiting: list[tuple[Any, int]] = []  # futures, and the bytes of their arguments
        self.written: dict[int, tuple[Shared, str]] = {}  # by id: what is shared, and its file

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: Any) -> None:
        self.ended.close()

    def submit(
        self, what: str, function: Callable[..., Any], shared: Shared | None, *args: Any
    ) -> "Task":
        """Hands over `function(what is shared, *args)`; `what` names the task in errors."""
        return Task(self, what, function, shared, args)

    def start(self, task: "Task", again: bool = False) -> Any:
        """A future of a task."""
        if isinstance(self.executor, ThreadPoolExecutor):
            future = self.executor.submit(_in_thread, task.function, task.shared, task.args)
        else:
            file = None if task.shared is None else self._file(task.shared)
            content = _read(file) if again and file else None
            call = pickled((task.function, task.args))
            self._wait_for_room(len(call))
            future = self._process(file, content, call, again)
            self.waiting.append((future, len(call)))
        self.ended.callback(future.cancel)
        return future

    def _wait_for_room(self, size):
        """Waits while the arguments of tasks that are not done fill the memory meant for them."""
        while True:
            self.waiting = [(one, n) for one, n in self.waiting if not one.done()]
            if not self.waiting or size + sum(n for _, n in self.waiting) <= WAITING_BYTES:
                return
            concurrent.futures.wait([one for one, _ in self.waiting], return_when=FIRST_COMPLETED)

    def _process(self, file, content, call, again):
        try:
            return self.executor.submit(_in_process, file, content, call)
        except BrokenExecutor:
            if not again:
                raise
            # with one worker it is known which task kills it
            context = multiprocessing.get_context("spawn")
            self.executor = self.ended.enter_context(ProcessPoolExecutor(1, context))
            return self.executor.submit(_in_process, file, content, call)

    def _file(self, shared) -> str:
        """The file of what is shared, which workers on this machine read: no pipe carries it."""
        if id(shared) not in self.written:
            if self.folder is None:
                self.folder = self.ended.enter_context(temporary_folder())
            content = pickled((shared.make, shared.parts))
            path = os.path.join(self.folder, hashlib.sha256(content).hexdigest())
            with open(path, "wb") as file:
                file.write(content)
            self.written[id(shared)] = shared, path
        return self.written[id(shared)][1]


class Task:
    """A function that a worker runs, see `Workers.submit`."""

    def __init__(self, workers, what, function, shared, args) -> None:
        self.workers, self.what, self.function = workers, what, function
        self.shared, self.args = shared, args
        self.outcome, self.future = None, None
        if workers.executor is None:
            self.outcome = _Outcome(function(None if shared is None else shared.mine(), *args))
            return
        with contextlib.suppress(BrokenExecutor):  # by an earlier task: `result` starts it again
            self.future = workers.start(self)

    def result(self) -> Any:
        """What the function returns; raises what it raises.

        Raises:
            RuntimeError: the worker died, and so did the one that tried again.
        """
        if self.outcome is None:
            self.outcome = self._outcome()
            self.shared, self.args, self.future = None, None, None
        if self.outcome.error is not None:
            raise self.outcome.error
        return self.outcome.value

    def _outcome(self):
        with contextlib.suppress(Exception):  # of the executor: those of the function are outcomes
            if self.future is not None and (outcome := self.future.result()) is not None:
                return outcome
        try:
            return self.workers.start(self, again=True).result()
        except Exception as error:
            raise RuntimeError(
                f"{self.what}: the worker that had it died or could not read it, and so did the "
                f"one that tried again. Received: {type(error).__name__}: {error}"
            ) from error


def as_done(tasks: Iterable[Task]) -> Iterator[Task]:
    """Tasks in the order in which they end."""
    waiting = {}
    for task in tasks:
        if task.future is None:
            yield task
        else:
            waiting[task.future] = task
    for future in concurrent.futures.as_completed(waiting):
        yield waiting[future]


class _Outcome(NamedTuple):
    value: Any
    error: Exception | None = None


def check_executor(executor: Any) -> None:
    """Raises unless this is None or an executor whose workers can run TensorFlow."""
    if executor is None:
        return
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        raise TypeError(
            "Expected `executor` to be a `concurrent.futures.Executor`, such as a "
            f"ProcessPoolExecutor, or None. Received: {executor!r:.80}"
        )
    context = getattr(executor, "_mp_context", None)
    if context is not None and context.get_start_method() == "fork":
        raise ValueError(
            "The `executor` forks its processes, and TensorFlow stops in a fork. Give "
            '`ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))`. '
            f"Received: {executor!r:.80}"
        )


def _in_thread(function, shared, args):
    return _run(function, None if shared is None else shared.of_thread(), args)


def _in_process(path, content, call):
    """Runs a task in a worker; None if there is nothing to make what is shared of."""
    if path is None:
        made = None
    elif getattr(_here, "key", None) == path:
        made = _here.made
    else:
        if content is None and not os.path.exists(path):  # this is another machine
            return None
        _here.key = _here.made = None  # before the next one takes memory
        make, parts = pickle.loads(content or _read(path))
        _here.key, _here.made = path, make(*parts)
        made = _here.made
    function, args = pickle.loads(call)
    return _run(function, made, args)


def _run(function, shared, args):
    try:
        with showing(0):
            return _Outcome(function(shared, *args))
    except Exception as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")
        return _Outcome(None, error)


def pickled(value: Any) -> bytes:
    """An object as bytes, in which models are files, without their compiled state."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, value):
        if isinstance(value, keras.Model):
            return _read_model, _model_file(value)
        return NotImplemented


def _model_file(model) -> tuple[bytes, list[str]]:
    """The file of a model, and the modules that its config names."""
    with temporary_folder() as folder:
        path = os.path.join(folder, "model.keras")
        try:
            model.save(path)
        except Exception as error:  # of any kind, from the code of a layer
            raise ValueError(
                f"Model {model.name!r} cannot be sent to other processes, because it cannot be "
                f"saved: {error} Give a ThreadPoolExecutor, or no executor."
            ) from error
        with zipfile.ZipFile(path) as file:
            config = file.read("config.json").decode()
        return _read(path), sorted(set(re.findall(r'"module": "([\w.]+)"', config)))


def _read_model(content, modules):
    for module in modules:  # which register the classes of their own
        with contextlib.suppress(ImportError):  # Keras tells what it misses
            importlib.import_module(module)
    with temporary_folder() as folder:
        path = os.path.join(folder, "model.keras")
        with open(path, "wb") as file:
            file.write(content)
        # written by the program that sent it, so that code in it (of a Lambda layer) may run
        return keras.models.load_model(path, compile=False, safe_mode=False)


def _read(path) -> bytes:
    with open(path, "rb") as file:
        return file.read()
