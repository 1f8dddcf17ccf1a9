# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The checks in environments of their own, one for each Python that is there: `pip install nox`, then `nox`.

`nox -s tests-3.12 -- tests/prompts` runs a part of the tests with one Python, `nox -s lowest` all of them with every
dependency at its lower bound.
"""

import os
from pathlib import Path

import nox

nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "tests", "docs"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests."""
    session.install("-e", ".[dev]")
    workers = os.environ.get("JOBS", "2")
    session.run("python", "-m", "pytest", "-n", workers, "--dist", "loadfile", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest Python and every dependency at the bound that pyproject.toml states."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["export"]]
    bounds = [line.split(",")[0].split(";")[0].strip() for line in stated]
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(bound.replace(">=", "==") for bound in bounds if ">=" in bound), encoding="utf-8")
    session.install("-c", str(constraints), "-e", ".[dev]")
    session.run("python", "-m", "pytest", "-n", os.environ.get("JOBS", "2"), "--dist", "loadfile", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules, format and types."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings as errors."""
    session.install("-e", ".[docs]")
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", "docs/_build/html")
