"""Real Prefect and MLflow servers: on SQLite, or started by the scripts of deploy/ on a private PostgreSQL."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import pytest

from helpers.processes import BIN, ROOT, eventually, free_port, responds, running

DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
POSTGRES = DEBIAN[-1] if DEBIAN else Path(shutil.which("postgres") or "")

NEEDS_POSTGRESQL = pytest.mark.skipif(
    not POSTGRES.name or not shutil.which("psql"), reason="no PostgreSQL: apt-get install postgresql"
)


class Cluster(NamedTuple):
    """A PostgreSQL cluster: its port, and a psql command that connects as the superuser."""

    port: int
    superuser_psql: str

    def query(self, database: str, sql: str) -> list[str]:
        """Return the rows of a query by the superuser, one line of text each."""
        psql = [*self.superuser_psql.split(), "--port", str(self.port), "--dbname", database]
        done = subprocess.run(
            [*psql, "--no-psqlrc", "--no-align", "--tuples-only", "--command", sql],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.splitlines()


class SQLiteServers:
    """Prefect and MLflow servers, each on a port of its own, which stays the same when it is killed and restarted."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        ports = {"prefect": free_port(), "mlflow": free_port()}
        self.urls = {
            "prefect": f"http://127.0.0.1:{ports['prefect']}/api",
            "mlflow": f"http://127.0.0.1:{ports['mlflow']}",
        }
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_"))},
            "PREFECT_HOME": str(directory / "prefect"),
            "PREFECT_API_URL": self.urls["prefect"],
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_TRACKING_URI": self.urls["mlflow"],
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves eight processes, as in deploy/servers.env
            "PATH": f"{BIN}:{os.environ['PATH']}",
            **settings,
        }
        self._commands = {
            "prefect": [BIN / "prefect", "server", "start", "--port", str(ports["prefect"])],
            "mlflow": [
                BIN / "mlflow", "server", "--backend-store-uri", f"sqlite:///{directory}/mlflow.db", "--workers", "1",
                "--artifacts-destination", directory / "artifacts", "--port", str(ports["mlflow"]),
            ],
        }  # fmt: skip
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self.start("prefect", "mlflow")
        except BaseException:
            self.kill(*self._processes)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(*self._processes)

    def start(self, *names: str) -> None:
        """Start servers at the same time, and wait until each responds."""
        for name in names:
            with (self.directory / f"{name}.log").open("a") as log:
                self._processes[name] = subprocess.Popen(
                    self._commands[name], cwd=self.directory, env=self.environment, stdout=log, stderr=log,
                    start_new_session=True,
                )  # fmt: skip
        for name in names:
            eventually(lambda url=self.urls[name]: responds(f"{url}/health"))  # type: ignore[misc]

    def kill(self, *names: str) -> None:
        """Kill servers with SIGKILL."""
        for name in names:
            process = self._processes.pop(name)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Servers(NamedTuple):
    """Servers that the scripts of deploy/ have started.

    Attributes:
        environment: A client's environment variables: addresses, user name and password, and the PATH.
        cluster: Their database cluster.
        artifacts: The folder for artifacts, which only the MLflow server writes to.
    """

    environment: dict[str, str]
    cluster: Cluster
    artifacts: Path


@contextmanager
def postgresql(directory: Path) -> Iterator[Cluster]:
    """Run a private cluster, with passwords on 127.0.0.1; the superuser connects by the socket without one."""
    # PostgreSQL refuses to run as root, and the user postgres has no access to pytest's folders
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="postgresql-", dir="/tmp") as home:
        if as_postgres:
            shutil.chown(home, "postgres", "postgres")
        port, data = free_port(), f"{home}/data"
        initdb = [
            *as_postgres, str(POSTGRES.with_name("initdb")), "--pgdata", data, "--username", "postgres", "--no-sync",
            "--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-locale", "--encoding", "UTF8",
        ]  # fmt: skip
        subprocess.run(initdb, cwd=home, check=True, capture_output=True)
        options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "fsync=off"]
        command = [*as_postgres, str(POSTGRES), "-D", data, "-p", str(port)]
        command += [word for option in options for word in ("-c", option)]
        ready = [str(POSTGRES.with_name("pg_isready")), "--quiet", "--host", home, "--port", str(port)]
        with running(command, directory / "postgresql.log", cwd=home):
            eventually(lambda: subprocess.run(ready, check=False).returncode == 0)
            yield Cluster(port, f"psql --host {home} --username postgres")


@contextmanager
def servers(directory: Path) -> Iterator[Servers]:
    """Start both servers by the scripts of deploy/, on a private database, and wait until both respond."""
    prefect_port, mlflow_port = free_port(), free_port()
    client = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "PG"))},
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PREFECT_HOME": str(directory / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{prefect_port}/api",
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow_port}",
        "MLFLOW_TRACKING_USERNAME": "admin",
        "MLFLOW_TRACKING_PASSWORD": "colon: and % and @",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with ExitStack() as stack:
        cluster = stack.enter_context(postgresql(directory))
        artifacts = directory / "artifacts"
        server = {
            **client,
            # the default is a minute, which would miss the time that a test schedules
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3",
            "PGPORT": str(cluster.port),
            "PGPASSWORD": "a quote ' and / and #",
            "SUPERUSER_PSQL": cluster.superuser_psql,
            "PREFECT_SERVER_API_PORT": str(prefect_port),
            "MLFLOW_PORT": str(mlflow_port),
            "MLFLOW_WORKERS": "1",
            "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts),
        }
        for _ in range(2):  # the second time, everything exists already
            subprocess.run([ROOT / "deploy/database.sh"], env=server, check=True)
        for name in ("prefect-server", "mlflow-server"):
            script = str(ROOT / "deploy" / f"{name}.sh")
            stack.enter_context(running([script], directory / f"{name}.log", env=server, cwd=directory))
        eventually(lambda: responds(f"{client['PREFECT_API_URL']}/health"))
        eventually(lambda: responds(f"{client['MLFLOW_TRACKING_URI']}/health"))
        yield Servers(client, cluster, artifacts)
