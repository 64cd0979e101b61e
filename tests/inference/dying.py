"""A process of likelihoods of which the second one is killed: `python -m tests.inference.dying JOB.json`."""

import os
import signal

if os.environ["RANK"] == "1":
    os.kill(os.getpid(), signal.SIGKILL)

from longcat.inference.ranks import main

if __name__ == "__main__":
    main()
