"""Spreads files over processes, where there are enough of them to pay."""

from __future__ import annotations

import itertools
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from losskit.cli import CannotRunError
from losskit.cli.checking import Options, Outcome, check_file
from losskit.cli.files import Found

# A process takes as long to start as some hundred files take to check.
ENOUGH_FILES = 400
_BATCH = 64


def outcomes(files: Iterable[Found], options: Options, plugins: Sequence[str] = ()) -> Iterator[Outcome]:
    """What came out of each file, in order."""
    files = iter(files)
    first = list(itertools.islice(files, ENOUGH_FILES))
    processes = usable_processors()
    # What needs torch fills the memory and the processors by itself.
    if len(first) < ENOUGH_FILES or processes < 2 or options.smoke:
        yield from (check_file(found, options) for found in itertools.chain(first, files))
        return
    yield from _spread(itertools.chain(first, files), options, plugins, processes)


def usable_processors() -> int:
    """How many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _spread(files: Iterator[Found], options: Options, plugins: Sequence[str], processes: int) -> Iterator[Outcome]:
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import active_children

    others = set(active_children())
    pool = ProcessPoolExecutor(processes, initializer=_prepare, initargs=(list(plugins), list(sys.path)))
    try:
        # As many batches wait as keep all processes busy, and no more, so that memory stays flat.
        waiting: deque[Future[list[Outcome]]] = deque()
        while batch := list(itertools.islice(files, _BATCH)):
            waiting.append(pool.submit(_check_batch, batch, options))
            if len(waiting) > 3 * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        message = "a process that checked files was ended from outside, perhaps for lack of memory; not all are checked"
        raise CannotRunError(message) from error
    except BaseException:
        # Ctrl-C, or nobody reads any more: what the processes have at hand may take minutes.
        for process in set(active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(plugins: Sequence[str], path: Sequence[str]) -> None:
    import signal
    import threading

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C ends the process that waits for this one, which then ends this one without a word.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from losskit.cli import import_plugins

    sys.path[:] = path
    import_plugins(plugins)


def _end_with_parent() -> None:
    """Ends this process when the one that waits for it is gone: nothing else would, were that killed."""
    from multiprocessing import connection, parent_process

    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)


def _check_batch(batch: list[Found], options: Options) -> list[Outcome]:
    return [check_file(found, options) for found in batch]
