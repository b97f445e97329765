"A small Ceph with its S3 gateway on this machine: one monitor, one store in memory, nothing outside a folder"

import os
import subprocess
import time
import uuid
from contextlib import ExitStack, contextmanager
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from tests.conftest import free_port

COMMANDS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
MAY = {  # who, and what it may do to whom
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
}


def configuration(folder, cluster, monitor):
    given = {
        "fsid": cluster,
        "mon initial members": "a",
        "mon host": monitor,
        "public addr": "127.0.0.1",
        "auth cluster required": "cephx",
        "auth service required": "cephx",
        "auth client required": "cephx",
        "keyring": folder / "keyring",
        "mon data": folder / "mon",
        "osd data": folder / "osd",
        "run dir": folder,
        "pid file": folder / "$name.pid",
        "admin socket": folder / "$name.asok",
        "log file": folder / "$name.log",
        "mon allow pool size one": "true",
        "osd pool default size": 1,
        "osd pool default min size": 1,
        "osd pool default pg num": 4,
        "osd pool default pg autoscale mode": "off",
        "osd crush chooseleaf type": 0,
        "osd objectstore": "memstore",
        "memstore device bytes": 1 << 28,
    }
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in given.items())


def answers(address):
    try:
        with urlopen(address, timeout=5) as said:
            return said.status == 200
    except HTTPError:
        return True
    except (URLError, ConnectionError):
        return False


@contextmanager
def serving(folder, key, secret):
    "Serve S3 to who has this key; its address"
    env = os.environ | {"CEPH_CONF": str(folder / "ceph.conf")}
    monitor = f"[v2:127.0.0.1:{free_port()}/0,v1:127.0.0.1:{free_port()}/0]"
    cluster, disk, port = str(uuid.uuid4()), str(uuid.uuid4()), free_port()
    (folder / "ceph.conf").write_text(configuration(folder, cluster, monitor))
    for name in ("mon", "osd"):
        (folder / name).mkdir()

    def run(*command):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command[0]}: {done.stderr}"

    keyring = str(folder / "keyring")
    for number, (who, may) in enumerate(MAY.items()):
        caps = [word for daemon, what in may.items() for word in ("--cap", daemon, what)]
        run("ceph-authtool", keyring, *(["--create-keyring"] if number == 0 else []), "--gen-key", "-n", who, *caps)
    run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", monitor, str(folder / "monmap"))
    run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"), "--keyring", keyring)
    with ExitStack() as stack:

        def start(*command):
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, env=env, **quiet)
            stack.callback(process.wait)
            stack.callback(process.kill)

        start("ceph-mon", "-f", "-i", "a")
        run("ceph", "osd", "new", disk)
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        start("ceph-osd", "-f", "-i", "0")
        start("radosgw", "-f", "-n", "client.rgw", "--rgw-frontends", f"beast endpoint=127.0.0.1:{port}")
        who = ("--uid", "ada", "--display-name", "Ada", "--access-key", key, "--secret-key", secret)
        run("radosgw-admin", "user", "create", *who)
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while not answers(address):
            assert time.monotonic() < end, (folder / "client.rgw.log").read_text()[-2000:]
            time.sleep(0.2)
        yield address
