"Build mlserve from the metadata in settings.ini."

import os
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
settings = ConfigParser(interpolation=None)
settings.read_string((ROOT / "settings.ini").read_text(encoding="utf-8"))
package = settings["package"]


def lines(key):
    return [line for line in package.get(key, "").splitlines() if line]


# The compiled walk is optional: without a compiler the plain one runs. A fused multiply-add would change the last bit.
FLAGS = [] if os.name == "nt" else ["-O2", "-std=c11", "-ffp-contract=off"]
walk = Extension("mlserve._walk", ["mlserve/_walk.c"], extra_compile_args=FLAGS, optional=True)


class BuildWithShared(build_py):
    "Files of this repository that a new project has too go into the wheel; a checkout has them where they are"

    names = (ROOT / "mlserve/project/shared.txt").read_text(encoding="utf-8").split()

    def get_source_files(self):
        return [*super().get_source_files(), *self.names]

    def run(self):
        super().run()
        if not self.editable_mode:
            for name in self.names:
                copied = Path(self.build_lib, "mlserve/project/shared", name)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, copied)


setup(
    description=package["description"],
    author=package["author"],
    license=package["license"],
    keywords=package["keywords"].split(),
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["mlserve", "mlserve.*"]),
    package_data={"mlserve": ["data/*", "static/*", "project/**"]},
    include_package_data=False,  # package_data says it all; else setuptools takes mlserve/data for a package
    ext_modules=[walk],
    cmdclass={"build_py": BuildWithShared},
    install_requires=lines("requirements"),
    extras_require={key.removesuffix("_requirements"): lines(key) for key in package if key.endswith("_requirements")},
    entry_points={"console_scripts": lines("console_scripts"), "nbdev": ["mlserve = mlserve._modidx:d"]},
)
