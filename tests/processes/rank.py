"""A training process of the tests: `python -m tests.processes.rank DIRECTORY`; what it does stands in `DIRECTORY/RANK`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from longcat.processes.child import follow


def main():
    follow()  # as every training process does
    directory, rank = Path(sys.argv[1]), os.environ["RANK"]
    told = {"at": [os.environ["MASTER_ADDR"], os.environ["GLOO_SOCKET_IFNAME"]], "pid": os.getpid()}
    told |= {name: os.environ[name] for name in ("WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK")}
    (directory / f"told-{rank}.json").write_text(json.dumps(told))
    what, *arguments = (directory / rank).read_text().split(maxsplit=1)
    match what:
        case "die":
            os.kill(os.getpid(), getattr(signal, arguments[0]))
        case "leave":
            sys.exit(int(arguments[0]))
        case "print":
            for number, word in enumerate(arguments[0].split()):
                print(word, file=sys.stderr if number % 2 else sys.stdout, flush=True)
            sys.exit(7)
        case "report":
            (directory / f"error-{rank}.json").write_text(arguments[0])
            sys.exit(1)
        case "sum":
            import torch
            import torch.distributed as dist

            dist.init_process_group("gloo")
            total = torch.ones(1)
            dist.all_reduce(total)
            (directory / f"sum-{rank}").write_text(str(int(total)))
            from longcat.parallel.mesh import end_process, leave

            leave()
            end_process()
        case "sleep":
            time.sleep(float(arguments[0]))


def launch_two(directory):
    """Launch two processes that meet by gloo."""
    from longcat.processes.launch import launch
    from longcat.processes.orders import Order

    for rank in ("0", "1"):
        (directory / rank).write_text("sum")
    order = Order("tests.processes.rank", (str(directory),), str(directory), 2, {}, grace_s=5, timeout_s=60)
    launch(order, deadline_s=300, poll=lambda: None)


if __name__ == "__main__":
    if sys.argv[2:] == ["launch"]:
        launch_two(Path(sys.argv[1]))
    else:
        main()
