"""A flow whose Prefect server stops answering in the middle; run as a process, to see it end: `exiting.py MODE`."""

import sys
import threading

from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed

from longcat.tasks.orchestrator import BestEffortFlow
from longcat.tasks.stage import stage_task
from tests.prefect_api import FakePrefect


@stage_task
def step(server, mode):
    if mode == "dead":
        server.die()
    server.mode = mode
    return Completed(data=mode)


if __name__ == "__main__":
    server = FakePrefect()  # which hangs on while the interpreter ends
    threading.Thread(target=server.server.serve_forever, daemon=True).start()
    with temporary_settings({PREFECT_API_URL: server.url}):
        print(BestEffortFlow(lambda: step(server, sys.argv[1]).result(), name="toy", persist_result=False)())
