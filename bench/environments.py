"Python environments: one for each way to serve, made by uv as a user would make them, and how large they are."

import argparse
import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
from importlib.metadata import distributions, version
from pathlib import Path

import mlserve

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
PEERS = {"bentoml": ["bentoml"], "litserve": ["litserve"], "mlflow": ["mlflow"]}
SHARED = ("scikit-learn", "skops", "numpy", "pandas")  # of one version everywhere, else not the servers are compared
HEAVY = ("numpy", "pandas", "scipy", "scikit-learn")


def fingerprint():
    "Eight digits that change with mlserve's code"
    package = Path(mlserve.__file__).parent
    files = [p for p in package.rglob("*") if p.suffix in (".py", ".c", ".html", ".js", ".css", ".parquet")]
    files += [ROOT / "settings.ini", ROOT / "setup.py"]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def _run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{Path(str(command[0])).name} {command[1]} failed: {done.stderr.strip()[-600:]}")


def _make(folder, requirements, constraints, state):
    "Make an environment, unless it is there already and made for the same `state`"
    stamp = folder / "made.txt"
    wanted = json.dumps([list(map(str, requirements)), constraints, state])
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    listed = folder.with_suffix(".txt")
    folder.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("\n".join(constraints))
    _run(UV, "venv", "-q", "--clear", "--python", sys.executable, folder)
    install = [UV, "pip", "install", "-q", "--compile-bytecode", "--python", folder / "bin" / "python"]
    _run(*install, "-c", listed, *requirements)
    stamp.write_text(wanted)


def _build_wheel(folder, state):
    "The wheel of this project, from its source distribution"
    folder = folder / state
    if not list(folder.glob("*.whl")):
        _run(UV, "build", "-q", "--python", sys.executable, "-o", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_all(work, say):
    "Environments by name: what the reference needs; mlserve, the same without a compiler, and with scikit-learn"
    state = fingerprint()
    say("building the wheel of mlserve")
    wheel = _build_wheel(work / "dist", state)
    same = sorted({f"{d.name}=={d.version}" for d in distributions() if d.name and d.name != "mlserve"})
    wanted = {
        "reference": (["fastapi", "uvicorn[standard]", "pandas", "scikit-learn", "skops"], ""),
        "mlserve": ([wheel], state),
        "mlserve-python": ([wheel], state),
        "mlserve-sklearn": ([f"mlserve[sklearn] @ {wheel.as_uri()}"], state),
    }
    for name, (requirements, of) in wanted.items():
        say(f"environment {name}")
        _make(work / "envs" / name, requirements, same, of)
    for name in wanted:
        if name.startswith("mlserve"):  # as a build for Heroku does
            environment = work / "envs" / name
            _run(environment / "bin" / "mlserve", "slug", "strip", environment / "lib")
    for built in (work / "envs" / "mlserve-python").glob("lib/python*/site-packages/mlserve/_walk.*.so"):
        built.unlink()  # as where there is no compiler
    return {name: work / "envs" / name for name in wanted}


def peers(work):
    "Environments of the peers that are installed"
    found = {name: work / "peers" / name for name in PEERS}
    return {name: folder for name, folder in found.items() if (folder / "made.txt").is_file()}


class _Count:
    "A file that only counts what is written to it"

    def __init__(self):
        self.size = 0

    def write(self, data):
        self.size += len(data)
        return len(data)

    def flush(self):
        pass


def size(environment):
    "What an environment's packages weigh, without pip, setuptools and byte code; kept beside it, as it takes a while"
    kept = environment / "size.json"
    if kept.is_file() and kept.stat().st_mtime >= (environment / "made.txt").stat().st_mtime:
        return json.loads(kept.read_text())
    (packages,) = environment.glob("lib/python*/site-packages")
    left_out = ("__pycache__", "pip", "setuptools", "_virtualenv.py", "_virtualenv.pth")
    files = [p for p in packages.rglob("*") if p.is_file() and not set(p.relative_to(packages).parts) & set(left_out)]
    zipped = _Count()
    with (
        gzip.GzipFile(fileobj=zipped, mode="wb", compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for file in sorted(files):
            archive.add(file, file.relative_to(packages))
    names = [p.name.split("-")[0].lower().replace("_", "-") for p in packages.glob("*.dist-info")]
    found = {
        "mb": round(sum(p.stat().st_size for p in files) / 1e6, 1),
        "gzip_mb": round(zipped.size / 1e6, 1),
        "distributions": len(names),
        "heavy": [name for name in HEAVY if name in names],
    }
    kept.write_text(json.dumps(found))
    return found


def install_peers(work):
    "Install each peer into an environment of its own"
    failed = []
    for name, requirements in PEERS.items():
        print(f"installing {name} ...", flush=True)
        same = [f"{package}=={version(package)}" for package in SHARED]
        try:
            _make(work / "peers" / name, [*requirements, "scikit-learn", "skops", "pandas"], same, "")
        except RuntimeError as error:
            failed.append(f"{name}: {error}")
    sys.exit("\n".join(failed) or None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Install the peers that the benchmark compares with.")
    parser.parse_args()
    install_peers(ROOT / "bench" / "work")
