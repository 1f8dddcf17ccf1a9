# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Content of the wheel, and what uninstalling leaves."""

import zipfile

import pytest

from tests.plugin.conftest import ROOT, STARTUP_FILES

HOOKED = "import sys; print(any(type(f).__module__ == '_anomalib_inctrl_autoload' for f in sys.meta_path))"


def test_wheel_holds_package_and_startup_files(wheel):
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
        assert STARTUP_FILES | {"anomalib_inctrl/py.typed", "anomalib_inctrl/registration.py"} <= names
        assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == STARTUP_FILES | {
            "anomalib_inctrl"
        }
        # Start-up files run in every Python process: one line each, with one call.
        assert content.read("anomalib_inctrl.pth") == b"import _anomalib_inctrl_autoload as _a; _a.install()\n"
        assert content.read("anomalib_inctrl.start") == b"_anomalib_inctrl_autoload:install\n"
        sources = [path for path in (ROOT / "anomalib_inctrl").rglob("*") if path.is_file()]
        assert {path.relative_to(ROOT).as_posix() for path in sources if path.suffix != ".pyc"} <= names


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstalling_leaves_nothing(kind, bare_environment, wheel):
    before = bare_environment.files()
    bare_environment.install(*([wheel] if kind == "wheel" else ["--editable", ROOT]))
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
