# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Content of the wheel, what uninstalling leaves, and the plugin inside anomalib, in processes of their own."""

import json
import os
import zipfile
from pathlib import Path

import pytest

from tests.plugin import scenarios
from tests.plugin.conftest import ROOT, Environment

HOOKED = "import sys; print(any(type(f).__module__ == '_anomalib_inctrl_autoload' for f in sys.meta_path))"
STARTUP_FILES = {"_anomalib_inctrl_autoload.py", "anomalib_inctrl.pth", "anomalib_inctrl.start"}


def test_wheel_holds_package_and_startup_files(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = {name for name in content.namelist() if ".dist-info/" not in name}
        assert {name.split("/")[0] for name in names} == STARTUP_FILES | {"anomalib_inctrl"}
        # Start-up files run in every Python process: one line each, with one call.
        assert content.read("anomalib_inctrl.pth") == b"import _anomalib_inctrl_autoload as _a; _a.install()\n"
        assert content.read("anomalib_inctrl.start") == b"_anomalib_inctrl_autoload:install\n"
        sources = [path for path in (ROOT / "anomalib_inctrl").rglob("*") if path.is_file()]
        assert {path.relative_to(ROOT).as_posix() for path in sources if path.suffix != ".pyc"} <= names


@pytest.mark.parametrize("editable", [False, True])
def test_uninstalling_leaves_nothing(editable, tmp_path, wheel):
    environment = Environment(tmp_path / "env")
    before = environment.files()
    environment.install(*(["--editable", ROOT] if editable else [wheel]))
    assert environment.run("-c", HOOKED).stdout.strip() == "True"
    assert {path.name for path in environment.site_packages.iterdir()} >= STARTUP_FILES
    environment.pip("uninstall", "--yes", "anomalib-inctrl")
    assert environment.files() == before
    process = environment.run("-c", HOOKED)
    assert (process.stdout.strip(), process.stderr) == ("False", "")


@pytest.mark.parametrize(
    ("switch", "flags", "hooked"),
    [("0", [], False), ("off", [], False), ("", [], True), ("", ["-I"], True), ("", ["-W", "error"], True)],
)
def test_the_switch_alone_keeps_the_hook_out(wheel_environment, switch, flags, hooked):
    process = wheel_environment.run(*flags, "-c", HOOKED, ANOMALIB_INCTRL_AUTOLOAD=switch)
    assert (process.stdout.strip(), process.stderr) == (str(hooked), "")


@pytest.fixture(scope="module")
def outcomes(wheel_environment):
    if not hasattr(os, "fork"):
        pytest.skip("the scenarios are forks of one process")
    return wheel_environment.run(Path(scenarios.__file__))


@pytest.mark.parametrize("name", scenarios.SCENARIOS)
def test_scenario(outcomes, name):
    assert json.loads(outcomes.stdout)[name] == 0, outcomes.stderr.rpartition(f"Process {name}")[2]


def test_the_own_command_is_installed(wheel_environment):
    assert wheel_environment.python.with_name("anomalib-inctrl").is_file()
