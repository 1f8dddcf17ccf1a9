# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Content of wheel and source distribution, time they take at start-up, and what uninstalling leaves."""

import json
import tarfile
import zipfile
from email.parser import Parser
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

from tests.plugin.conftest import ROOT, STARTUP_FILES

# Runs without `site`, so that the hook is measured alone; `os` is there in every start that has `site`.
MEASURE = """
import json, os, sys, time
sys.path.insert(0, {site_packages!r})
before = set(sys.modules)
start = time.perf_counter()
import _anomalib_inctrl_autoload
_anomalib_inctrl_autoload.install()
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""
HOOKED = "import sys; print(any(type(f).__module__ == '_anomalib_inctrl_autoload' for f in sys.meta_path))"


def test_wheel_holds_package_and_startup_files(distributions):
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = set(wheel.namelist())
        assert STARTUP_FILES | {"anomalib_inctrl/py.typed", "anomalib_inctrl/registration.py"} <= names
        assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == STARTUP_FILES | {
            "anomalib_inctrl"
        }
        # Start-up files run in every Python process: one line each, with one call.
        assert wheel.read("anomalib_inctrl.pth") == b"import _anomalib_inctrl_autoload as _a; _a.install()\n"
        assert wheel.read("anomalib_inctrl.start") == b"_anomalib_inctrl_autoload:install\n"
        sources = [path for path in (ROOT / "anomalib_inctrl").rglob("*") if path.is_file()]
        assert {path.relative_to(ROOT).as_posix() for path in sources if path.suffix != ".pyc"} <= names


def test_sdist_holds_what_a_build_needs(distributions):
    with tarfile.open(distributions["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {f"autoload/{name}" for name in STARTUP_FILES} <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "anomalib_inctrl/py.typed"} <= names


def test_open_clip_range_overlaps_anomalibs(distributions):
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        ours = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist")

    def open_clip(lines):
        found = [line for line in map(Requirement, lines) if line.name.replace("-", "_") == "open_clip_torch"]
        (specifier,) = {line.specifier for line in found if not line.marker or line.marker.evaluate({"extra": "clip"})}
        return specifier

    # Every open_clip that anomalib[clip] accepts is accepted here.
    theirs = open_clip(requires("anomalib"))
    releases = ["2.22.0", "2.23.0", "2.24.0", "2.26.0", "2.26.1", "2.32.0", "3.3.0"]
    accepted = list(theirs.filter(releases))
    assert accepted
    assert set(accepted) <= set(open_clip(ours).filter(releases))


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstalling_leaves_nothing(kind, bare_environment, distributions):
    before = bare_environment.files()
    bare_environment.install(*([distributions["wheel"]] if kind == "wheel" else ["--editable", ROOT]))
    assert bare_environment.run("-c", HOOKED).stdout.strip() == "True"
    installed = {path.name for path in bare_environment.site_packages.iterdir()}
    assert installed >= STARTUP_FILES
    bare_environment.pip("uninstall", "--yes", "anomalib-inctrl")
    assert bare_environment.files() == before
    process = bare_environment.run("-c", HOOKED)
    assert (process.stdout.strip(), process.stderr) == ("False", "")


@pytest.mark.parametrize(("value", "hooked"), [("0", False), ("off", False), ("", True)])
def test_off_switch_keeps_the_hook_out(wheel_environment, value, hooked):
    process = wheel_environment.run("-c", HOOKED, ANOMALIB_INCTRL_AUTOLOAD=value)
    assert process.stdout.strip() == str(hooked)


@pytest.mark.parametrize("flags", [["-I"], ["-s", "-E"], ["-W", "error"]])
def test_hook_survives_interpreter_flags(wheel_environment, flags):
    process = wheel_environment.run(*flags, "-c", HOOKED)
    assert (process.stdout.strip(), process.stderr) == ("True", "")


def test_start_without_anomalib_is_cheap(wheel_environment):
    script = MEASURE.format(site_packages=str(wheel_environment.site_packages))
    runs = [json.loads(wheel_environment.run("-S", "-c", script).stdout) for _ in range(7)]
    assert min(seconds for seconds, _ in runs) < 0.002
    assert all(modules == ["_anomalib_inctrl_autoload"] for _, modules in runs)
