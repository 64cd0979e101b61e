"""`python -m longcat.flows.prefect_server DATABASE`: a Prefect server whose database is whole as soon as it has its name."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from longcat.processes.child import die_with_parent
from longcat.stores import made_whole, sqlite_url

_DRIVER = "sqlite+aiosqlite"


def main() -> None:
    """Make the database if there is none, and run the server; its host and port are taken from the environment."""
    database = Path(sys.argv[1])
    import prefect.server.database.orm_models  # noqa: F401  (once, for the process that makes the database, too)
    from prefect.cli import app

    if not database.exists():
        make(database)
    os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = sqlite_url(database, _DRIVER)
    sys.argv[1:] = ["server", "start"]
    app()


def make(database: Path) -> None:
    """Make a database, in a child process: Prefect knows one database for each.

    Raises:
        SystemExit: it could not be made.
    """
    with made_whole(database) as new:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _migrate(new)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit(f"the database {database} could not be made")


def _migrate(database: Path) -> None:
    from prefect.server.database import provide_database_interface
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

    die_with_parent(signal.SIGKILL)
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: sqlite_url(database, _DRIVER)}):
        asyncio.run(provide_database_interface().create_db())


if __name__ == "__main__":
    main()
