"""`python -m tests.cluster.train WORKSPACE SETTING...`: training on the tokens that are there, without Prefect and MLflow."""

import signal
import sys

from longcat.artifact import Workspace
from longcat.config import load_config
from longcat.corpus.stage import preprocess
from longcat.errors import Cancelled, LongcatError
from longcat.training.stage import pretrain


def main():
    def cancel(*_):
        raise Cancelled("stopped by SIGTERM")

    signal.signal(signal.SIGTERM, cancel)
    config, workspace = load_config("smoke", None, sys.argv[2:]), Workspace(sys.argv[1])
    try:
        with workspace.lease():
            pretrain(config, preprocess(config, workspace=workspace), workspace=workspace)
    except LongcatError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
