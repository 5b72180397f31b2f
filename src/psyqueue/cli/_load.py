"""The queue that an operator names as `module:queue`. The only place that imports by name."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

from psyqueue import PsyQueue
from psyqueue.errors import ConfigError, PsyQueueError
from psyqueue.kernel.stores import plugin_for


def load_queue(target: str) -> PsyQueue:
    """The PsyQueue called `queue` in `module`; the current folder is importable.

    Raises ConfigError that says what is wrong with the name, or where the module itself fails.
    """
    module_name, _, path = target.partition(":")
    if not module_name or not path or not all(part.isidentifier() for part in (module_name + "." + path).split(".")):
        raise ConfigError(f"{target!r} does not name a queue; write module:queue, e.g. 'shop.jobs:q' (no .py)")
    try:
        folder = str(Path.cwd())
    except OSError as exc:
        raise ConfigError(f"the current folder is of no use ({exc.strerror}). Start in one that is there") from exc
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = _import(module_name, folder)
    found: object = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if isinstance(found, PsyQueue):
        return found
    raise ConfigError(_what_instead(target, module_name, path, found, vars(module)))


def _import(name: str, folder: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(exc.name + ".")):
            text = f"no module {exc.name!r} in {folder} nor among the installed packages. "
            text += f"Write {name[:-3]!r}, no .py" if name.endswith(".py") else "Start in the folder it is in"
            raise ConfigError(text, module=name) from exc
        raise ConfigError(_failure(name, exc), module=name) from exc
    except PsyQueueError:
        raise
    except SystemExit as exc:
        raise ConfigError(f"module {name!r} ended the process when it was imported (exit {exc.code!r})") from exc
    except Exception as exc:
        raise ConfigError(_failure(name, exc), module=name) from exc


def _failure(name: str, error: Exception) -> str:
    """One line: what, and the last place in the operator's own code."""
    if isinstance(error, SyntaxError):
        return f"module {name!r} cannot be imported: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"module {name!r} cannot be imported: {type(error).__name__}: {error}{place}"


def _what_instead(target: str, module_name: str, path: str, found: object, names: dict[str, object]) -> str:
    queues = sorted(name for name, value in names.items() if isinstance(value, PsyQueue))
    hint = f"; it holds {', '.join(f'{module_name}:{name}' for name in queues)}" if queues else "; it holds no PsyQueue"
    if found is None:
        return f"{target!r}: module {module_name!r} has no {path!r}{hint}"
    return f"{target!r} is {type(found).__name__}, not a PsyQueue{hint}"


def open_queue(target: str, url: str | None, *, is_url_given: bool) -> PsyQueue:
    """The operator's queue, not started; without a store of its own it gets the one at `url`. Raises ConfigError."""
    queue = load_queue(target)
    own_url = url_for(queue, target, url, is_url_given=is_url_given)
    return queue if own_url is None else queue.use(plugin_for(own_url, {}))


def url_for(queue: PsyQueue, target: str, url: str | None, *, is_url_given: bool) -> str | None:
    """The address of the store that the queue is to get; None: it has one. Raises ConfigError.

    `is_url_given`: on the command line, where it must not be given in vain.
    """
    has_store = _has_store(queue)
    if has_store and is_url_given:
        raise ConfigError(f"{target} brings a store of its own; leave --backend out, or use() none there")
    if not has_store and url is None:
        raise ConfigError(f"{target} has no store: use() one there, or give --backend URL, e.g. 'sqlite:./jobs.db'")
    return None if has_store else url


def _has_store(queue: PsyQueue) -> bool:
    try:
        queue.get_exposed("backend")
    except ConfigError:
        return False
    return True
