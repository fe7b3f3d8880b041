"""Builds the shared libraries with CMake and ninja and packs them into one wheel per platform.

The libraries use torch's stable ABI and no Python API, so the wheel serves every CPython from 3.10
and every torch from 2.10 on.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class BuildLibraries(build_ext):
    """Runs CMake; the build folder is kept, so that a second build is incremental."""

    def run(self) -> None:
        """Configure, build, and copy the libraries next to the Python files."""
        build = ROOT / "build" / f"cmake-{sys.platform}"
        in_place = self.editable_mode or self.inplace
        package = ROOT / "ops" if in_place else Path(self.build_lib) / "convt3d"
        cmake = tool("cmake")
        configure = [
            cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_BUILD_TYPE=Release",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build), *parallel_jobs()], check=True)
        (package / "lib").mkdir(parents=True, exist_ok=True)
        for library in build.glob("libconvt3d*.so"):
            shutil.copy2(library, package / "lib")

    def get_outputs(self) -> list[str]:
        """None that setuptools should look for: `run` places the libraries itself."""
        return []

    def get_source_files(self) -> list[str]:
        """None: CMakeLists.txt has the only list."""
        return []


class PlatformWheel(bdist_wheel):
    """Tags the wheel ``py3-none-<platform>``."""

    def get_tag(self) -> tuple[str, str, str]:
        """Interpreter, ABI, platform; only the platform matters."""
        return "py3", "none", super().get_tag()[2]


def parallel_jobs() -> list[str]:
    """One per core: ninja's own two more, each of several processes, slow all down by a fifth."""
    if "CMAKE_BUILD_PARALLEL_LEVEL" in os.environ:
        return []
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return ["--parallel", str(cores or 1)]


def tool(name: str) -> str:
    """The program of that name, first where this interpreter's packages put theirs."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        raise SystemExit(f"convt3d needs {name} to build: pip install {name}")
    return found


def version() -> str:
    """The version string of ``ops/version.py``, without importing the package."""
    found = re.search(r'__version__ = "(.+)"', (ROOT / "ops" / "version.py").read_text())
    assert found is not None
    return found.group(1)


setup(
    version=version(),
    packages=[
        "convt3d",
        "convt3d.bench",
        "convt3d.demo",
        "convt3d.distributed",
        "convt3d.meta",
    ],
    package_dir={"convt3d": "ops", "convt3d.meta": "meta"},
    # Makes the wheel a platform wheel; CMakeLists.txt has the sources.
    ext_modules=[Extension("convt3d.lib", sources=[])],
    cmdclass={"build_ext": BuildLibraries, "bdist_wheel": PlatformWheel},
)
