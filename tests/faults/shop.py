"A store of models that can be damaged and can hang"

import json
import threading
from contextlib import suppress
from dataclasses import replace
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from mlserve.bundle import Lineage, Manifest, dump, write_bundle
from mlserve.contract import Contract, Field, Output, to_json
from mlserve.plan import Input, Op, Plan, to_bytes
from mlserve.remote import Folder
from mlserve.store import Pointer, manifest_digest, object_path, read_pointer, write_pointer

CONTRACT = Contract((Field("age", "integer"),), Output("regression", "income", unit="USD"))


def make_bundle(folder, version, rate, probe_rate, engine="plan"):
    "A model that pays so much for each year of age"
    plan = Plan((Input("age", "number"),), (Op("linear", (0,), (0.0, rate)),), (1,))
    probe = {"rows": [{"age": 40}], "values": [40 * probe_rate], "probabilities": [[]]}
    files = {"contract.json": dump(to_json(CONTRACT)), "probe.json": dump(probe), "plan.bin": to_bytes(plan)}
    lineage = Lineage("notes:recipe", "0" * 64, 10, 2, {}, 0, "0.1.0", {})
    return write_bundle(folder, Manifest("pay", version, engine, lineage, {}, {}), files)


def rate_of(version):
    "Each version pays its own rate, so that an answer shows which model made it"
    minor, patch = map(int, version.split(".")[1:])
    return 1000.0 + 100 * minor + patch


class Shop:
    "A store behind HTTP that can be damaged and can hang"

    def __init__(self, root):
        self.folder, self.scratch = Folder(root / "store"), root / "scratch"
        self.folder.root.mkdir(parents=True)
        self.hangs = threading.Event()
        self.hangs.set()  # set: it goes on
        shop = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=shop.folder.root)

            def do_GET(self):
                shop.hangs.wait(20)
                with suppress(ConnectionError):  # who asked has given up
                    super().do_GET()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def put(self, data, suffix=""):
        name = md5(data).hexdigest()
        path = self.folder.root / object_path(name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    def release(self, version, fault=""):
        "Put a model into the store; `fault` says what is wrong with it"
        rate, engine = rate_of(version), "sklearn" if fault == "other engine" else "plan"
        made = make_bundle(self.scratch / version, version, rate, rate + (fault == "wrong probe"), engine)
        names = sorted([*made.manifest.files, "manifest.json"])
        listed = [{"md5": self.put((made.folder / n).read_bytes()), "relpath": n} for n in names]
        folder = self.put(json.dumps(listed).encode(), ".dir") + ".dir"
        manifest = self.folder.root / object_path(listed[names.index("manifest.json")]["md5"])
        if fault == "corrupt":
            manifest.write_bytes(manifest.read_bytes().replace(b"pay", b"pax"))
        elif fault == "truncated":
            manifest.write_bytes(manifest.read_bytes()[:-20])
        elif fault == "missing":
            manifest.unlink()
        return Pointer("pay", "prod", version, "", folder, manifest_digest(made.folder), 0, "")

    def promote(self, pointer):
        was = read_pointer(self.folder, "pay", "prod")
        number = was.counter + 1 if was else 1
        write_pointer(self.folder, replace(pointer, counter=number, tag=f"pay#prod#{number}"), was)
