"""Waiting for what other processes do; the limits are there for what never happens, not for a slow machine."""

import time

import psutil

LIMIT_S = 500


def wait_until(condition, process=None):
    """Wait until a condition holds, and return what it gave; `process` has to be alive until then."""
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert process is None or process.poll() is None, f"the process ended with {process.returncode}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return found


def all_gone(processes):
    """Wait until processes are gone."""
    _, alive = psutil.wait_procs(processes, timeout=LIMIT_S)
    return not alive
