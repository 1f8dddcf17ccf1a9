# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel, built once, and environments that hold it."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WINDOWS = os.name == "nt"
OWN_PYTHON = {"PYTHONPATH", "PYTHONWARNINGS", "PYTHONHOME"}


class Environment:
    """A virtual environment that sees the packages of the running one, though none of its start-up files."""

    def __init__(self, path):
        venv.EnvBuilder(with_pip=False, symlinks=not WINDOWS).create(path)
        self.path = path
        self.python = path / ("Scripts/python.exe" if WINDOWS else "bin/python")
        (self.site_packages,) = path.glob("Lib/site-packages" if WINDOWS else "lib/python3*/site-packages")
        # A plain path line: `site` processes no .pth file in there, so a plugin installed in the running environment,
        # editable or not, does not act in this one.
        outer = [entry for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}]
        (self.site_packages / "zz_dependencies.pth").write_text("\n".join(outer) + "\n")

    def files(self):
        return {str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file()}

    def run(self, *arguments, python=None, **variables):
        """Run Python away from the source tree; warnings are shown as a user sees them."""
        inherited = {name: value for name, value in os.environ.items() if name not in OWN_PYTHON}
        process = subprocess.run(
            [python or self.python, *arguments],
            cwd=self.path,
            env=inherited | {"OMP_NUM_THREADS": "1"} | variables,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert process.returncode == 0, f"{arguments}: {process.stdout}{process.stderr}"
        return process

    def pip(self, *arguments):
        options = ["-m", "pip", "--python", self.python, "--disable-pip-version-check"]
        self.run(*options, *arguments, python=sys.executable)

    def install(self, *what):
        # Whatever is installed in the running environment is visible here too and must not count as installed.
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", *what)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel_environment(tmp_path_factory, wheel):
    environment = Environment(tmp_path_factory.mktemp("wheel") / "env")
    environment.install(wheel)
    return environment
