"""What the Python processes that run.py measures have in common: one command a line on standard input, one answer a line on
standard output, both JSON.  The answers of the Rust driver look the same."""

import gc
import json
import math
import os
import sys
import time

import numpy as np

# A process whose threads run less than this share of the time is at rest.
AT_REST, LONGEST_WAIT = 0.05, 1.0


def relative_error(theirs, path):
    """How far the output written to `path` is from `theirs`: the largest difference over the root mean square."""
    ours, theirs = np.fromfile(path, "<f4"), np.asarray(theirs, dtype=np.float32).ravel()
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.size} numbers came, {theirs.size} were expected")
    size = math.sqrt(np.square(theirs, dtype=np.float64).mean())
    error = float(np.abs(ours - theirs).max())
    return error / size if math.isfinite(error) and size > 0 else float("inf")


def time_calls(call, warm, calls, idle):
    """Seconds of each of `calls` calls, every one after `idle` seconds of sleep."""
    seconds = []
    gc.disable()
    for _ in range(warm):
        call()
    for _ in range(calls):
        if idle > 0:
            time.sleep(idle)
        start = time.perf_counter_ns()
        output = call()
        seconds.append((time.perf_counter_ns() - start) * 1e-9)
        del output
    gc.enable()
    come_to_rest()
    return seconds


def come_to_rest():
    """Waits until threads that spin for the next call have fallen asleep (ONNX Runtime's take some 50 ms): whoever comes next shares
    their processors."""
    step = 0.01
    for _ in range(round(LONGEST_WAIT / step)):
        before = time.process_time()
        time.sleep(step)
        if time.process_time() - before < AT_REST * step:
            return


def serve(worker):
    """Answers commands by the methods of `worker`."""
    # Only answers may go to the pipe: whatever else prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("op"))(**command) or {}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
