"""Waits with a limit: a test that waits for what never comes fails, and leaves no process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from distributed import Client

LIMIT_SECONDS = 120.0
"""Much more than any wait takes, on a busy machine too."""


def wait_until(is_so: Callable[[], Any]) -> None:
    """Return as soon as the condition holds."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited {LIMIT_SECONDS} seconds in vain"
        time.sleep(0.01)


def wait_for_tasks(client: Client) -> None:
    """Return when no worker runs a task; those of a run that failed may go on for a while."""

    def running(dask_worker: Any) -> int:
        return len(dask_worker.state.executing)

    wait_until(lambda: not any(client.run(running).values()))


@contextlib.contextmanager
def ending(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """A process with a session of its own: it and all that it started end with the context.

    They end after `LIMIT_SECONDS` at the latest, so that reading what it prints has an end, too.
    """

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    too_long = threading.Timer(LIMIT_SECONDS, end)
    too_long.start()
    with process:
        try:
            yield process
        finally:
            too_long.cancel()
            end()
