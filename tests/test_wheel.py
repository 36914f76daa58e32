"""What users install: a wheel is built from a copy of the source, installed elsewhere, and looked into."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import minisae

pytestmark = pytest.mark.slow
SOURCE = Path(minisae.__file__).parent.parent
FILES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
FOLDERS = ("minisae", "gpu", "toy_models")


def run(*command, cwd, path=None):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (
        {"PYTHONPATH": str(path)} if path else {}
    )
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built outside the working tree, so that it leaves nothing behind there."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in FILES:
        shutil.copy(SOURCE / name, folder)
    for name in FOLDERS:
        if (SOURCE / name).is_dir():
            shutil.copytree(SOURCE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    here = int(version("setuptools").partition(".")[0]) >= 77 if find_spec("setuptools") else False
    isolation = ["--no-build-isolation"] if here else []  # without it pip fetches setuptools
    run(sys.executable, "-m", "pip", "wheel", *isolation, "--no-deps", "--wheel-dir", "out", ".", cwd=folder)
    [built] = (folder / "out").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the installed package, its dependencies taken from this environment."""
    folder = tmp_path_factory.mktemp("site")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def in_source(folder, *patterns):
    """Files of a source folder that belong into the package."""
    found = [path for pattern in patterns for path in (SOURCE / folder).rglob(pattern)]
    return {path.relative_to(SOURCE / folder).as_posix() for path in found if "__pycache__" not in path.parts}


def test_every_module_and_every_data_file_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"minisae/{name}" for name in in_source("minisae", "*.py", "py.typed")}
    expected |= {f"minisae/models/data/{name}" for name in in_source("minisae/models/data", "*.*")}
    expected |= {f"minisae/verify/data/{name}" for name in in_source("minisae/verify/data", "*.*")}
    expected |= {f"minisae/gpu/{name}" for name in in_source("gpu", "*.py", "*.cu", "*.cuh", "*.h")}
    expected |= {f"toy_models/{name}" for name in in_source("toy_models", "*.py")}
    assert expected <= names, sorted(expected - names)


def test_nothing_else_is_in_the_wheel(wheel):
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} <= {"minisae", "toy_models"}


def test_licence_and_notice_are_in_the_wheel(wheel):
    names = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE", "METADATA", "entry_points.txt"} <= names


SCRIPT = """
import importlib.resources, pathlib, sys
import minisae, minisae.gpu
from minisae.gpu import parity
from minisae.models import load
site = pathlib.Path(sys.argv[1])
for module in (minisae, minisae.gpu, parity):
    assert site in pathlib.Path(module.__file__).parents, module.__file__
assert importlib.resources.files("minisae").joinpath("py.typed").is_file()
assert load().params
print(minisae.__version__)
"""


def test_it_runs_from_another_folder(installed, tmp_path):
    out = run(sys.executable, "-c", SCRIPT, str(installed), cwd=tmp_path, path=installed)
    assert out.strip() == minisae.__version__


def test_the_parity_check_starts_when_installed(installed, tmp_path):
    command = (sys.executable, "-m", "minisae.gpu.parity", "--help")
    assert "--self" in run(*command, cwd=tmp_path, path=installed)
