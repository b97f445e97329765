"Build mlserve from the metadata in settings.ini."

import os
from configparser import ConfigParser
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent
settings = ConfigParser(interpolation=None)
settings.read_string((ROOT / "settings.ini").read_text(encoding="utf-8"))
package = settings["package"]


def lines(key):
    return [line for line in package.get(key, "").splitlines() if line]


# The compiled walk is optional: without a compiler the plain one runs. A fused multiply-add would change the last bit.
FLAGS = [] if os.name == "nt" else ["-O2", "-std=c11", "-ffp-contract=off"]
walk = Extension("mlserve._walk", ["mlserve/_walk.c"], extra_compile_args=FLAGS, optional=True)

setup(
    description=package["description"],
    author=package["author"],
    license=package["license"],
    keywords=package["keywords"].split(),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["mlserve", "mlserve.*"]),
    package_data={"mlserve": ["data/*", "static/*"]},
    include_package_data=False,  # package_data says it all; else setuptools takes mlserve/data for a package
    ext_modules=[walk],
    install_requires=lines("requirements"),
    extras_require={
        extra: lines(f"{extra}_requirements") for extra in ("sklearn", "store", "postgres", "train", "dev")
    },
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": ["mlserve = mlserve._modidx:d"]},
)
