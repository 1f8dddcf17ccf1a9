# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The wheel, built once, and environments that hold it."""

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STARTUP_FILES = {"_anomalib_inctrl_autoload.py", "anomalib_inctrl.pth", "anomalib_inctrl.start"}


@dataclass(frozen=True)
class Environment:
    """A virtual environment that sees the packages of the running one, though none of its start-up files."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "Environment":
        venv.EnvBuilder(with_pip=False, symlinks=os.name != "nt").create(path)
        environment = cls(path)
        # A plain path line: `site` processes no .pth file in there, so a plugin installed in the running environment,
        # editable or not, does not act in this one.
        outer = [entry for entry in sys.path if Path(entry).name in {"site-packages", "dist-packages"}]
        (environment.site_packages / "zz_dependencies.pth").write_text("\n".join(outer) + "\n")
        return environment

    @property
    def python(self) -> Path:
        return self.path / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def site_packages(self) -> Path:
        (path,) = self.path.glob("lib/python3*/site-packages") if os.name != "nt" else [self.path / "Lib/site-packages"]
        return path

    def files(self) -> set[str]:
        return {str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file()}

    def run(self, *arguments: str | Path, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python here, away from the source tree; warnings are shown as a user sees them."""
        inherited = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONWARNINGS", "PYTHONHOME"}}
        process = subprocess.run(
            [self.python, *arguments],
            cwd=self.path,
            env=inherited | {"OMP_NUM_THREADS": "1"} | variables,
            capture_output=True,
            text=True,
            timeout=240,
        )
        if check and process.returncode:
            pytest.fail(f"{' '.join(map(str, arguments))} ended with {process.returncode}:\n{process.stderr}")
        return process

    def pip(self, *arguments: str | Path) -> None:
        process = subprocess.run(
            [sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert process.returncode == 0, process.stdout + process.stderr

    def install(self, *what: str | Path) -> None:
        # Whatever is installed in the running environment is visible here too and must not count as installed.
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", *what)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], check=True, capture_output=True
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture
def bare_environment(tmp_path) -> Environment:
    return Environment.create(tmp_path / "env")


@pytest.fixture(scope="session")
def wheel_environment(tmp_path_factory, wheel) -> Environment:
    environment = Environment.create(tmp_path_factory.mktemp("wheel") / "env")
    environment.install(wheel)
    return environment
