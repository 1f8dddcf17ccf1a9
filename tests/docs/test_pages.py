# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""What the documentation says can be done can be done."""

import argparse
import importlib
import re
import shlex
import sys

import pytest
from anomalib.cli.cli import AnomalibCLI

from anomalib_inctrl import Detector, InCTRLDemo
from anomalib_inctrl.benchmark.pipeline import GeneralistBenchmark
from anomalib_inctrl.cli import _COMMANDS

from .pages import PAGES, ROOT, blocks, name, prose, shell_lines

DEMO = {"backbone": "mini-clip-16-240", "pretrained": "demo"}
# Blocks that are read but not run, by a word in them, and why.
NOT_RUN = {
    "configs/benchmarks/embedded.yaml": "the whole benchmark takes minutes",
    "OpenVINOInferencer(": "exports are run by tests/engine/test_export.py",
    "onnxruntime.": "the same",
    'torch.load("exported': "the same",
    "push_to_hub": "a connection",
}
TESTED_ELSEWHERE = {"CONTRIBUTING.md"}


def python_blocks():
    for path in PAGES:
        for block in [] if path.name in TESTED_ELSEWHERE else blocks(path, "python"):
            yield pytest.param(path, block, id=f"{name(path)}:{block.line}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the examples have it: good/ and to_check/, a checkpoint, and a category in MVTec AD's layout."""
    folder = tmp_path_factory.mktemp("examples")
    data = folder / "datasets" / "MVTecAD"
    InCTRLDemo(root=data, category="washer", train_count=5, test_normal_count=2, test_anomalous_count=3).prepare_data()
    (data / "washer").rename(data / "bottle")
    pictures = sorted((data / "bottle" / "train" / "good").glob("*.png"))
    for target, chosen in (("good", pictures[:3]), ("to_check", pictures[3:])):
        (folder / target).mkdir()
        for number, path in enumerate(chosen, start=1):
            (folder / target / f"{number}.png").write_bytes(path.read_bytes())
    (folder / "picture.png").write_bytes(pictures[0].read_bytes())
    detector = Detector(**DEMO, device="cpu")
    detector.set_prompts(folder / "good", class_name="metal nut")
    for checkpoint in ("trained.ckpt", "inctrl_v2.ckpt"):
        detector.save(folder / checkpoint)
    return folder


@pytest.mark.parametrize(("path", "block"), list(python_blocks()))
def test_python_block(path, block, place, monkeypatch):
    # Worker processes that import PyTorch take longer than the five pictures they read.
    text = block.text.replace('MVTecAD(category="bottle")', 'MVTecAD(category="bottle", num_workers=0)')
    code = compile("\n" * (block.line - 1) + text, str(path), "exec")
    if any(word in block.text for word in NOT_RUN):
        for line in re.findall(r"^from anomalib_inctrl.*", block.text, flags=re.MULTILINE):
            exec(line, {})
        return
    monkeypatch.chdir(place)
    exec(code, {"__name__": "__main__", "pictures": ["to_check"], "detector": None})


class UnderstoodError(Exception):
    """Raised in place of running what has been parsed."""


def is_make_target(arguments):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return {word for word in arguments if "=" not in word} <= set(targets)


def is_script(arguments):
    source = (ROOT / arguments[0]).read_text()
    return all(f'"{word}"' in source for word in arguments[1:] if word.startswith("--"))


def is_own_command(arguments, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(UnderstoodError):
        importlib.import_module(_COMMANDS[arguments[0]].module).main(arguments[1:])
    return True


def is_anomalibs(arguments):
    if "--model.help" in arguments:
        return arguments[arguments.index("--model.help") + 1] in {"InCTRL", "InCTRLv2"}
    if arguments[0] == "benchmark":  # its config is read in test_configs.py
        return (ROOT / arguments[arguments.index("--config") + 1]).is_file()
    with pytest.raises(SystemExit) as end:
        AnomalibCLI(args=[*arguments, "--print_config"])
    return end.value.code == 0


def understood(command, monkeypatch):
    """Parse a command as what it calls does, without running it."""
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables of the environment
        words.pop(0)
    program, *arguments = words
    if program == "make":
        return is_make_target(arguments)
    if program == "python" and arguments[0].endswith(".py"):
        return is_script(arguments)
    if program in {"anomalib", "anomalib-inctrl"} and arguments[0] == "generalist":
        return bool(GeneralistBenchmark.get_parser().parse_args(arguments[1:]))
    if program in {"anomalib", "anomalib-inctrl"}:
        return is_own_command(arguments, monkeypatch) if arguments[0] in _COMMANDS else is_anomalibs(arguments)
    return program in {"pip", "python", "nox", "ray", "docker", "curl", "torchrun"}


def commands():
    seen = {}
    for path in PAGES:
        for command in shell_lines(path):
            if "..." not in command:  # an abbreviation, for readers
                seen.setdefault(command, name(path))
    return [pytest.param(command, id=f"{page}: {command[:60]}") for command, page in seen.items()]


@pytest.mark.parametrize("command", commands())
def test_shell_line(command, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    if not (place / "configs").exists():
        (place / "configs").symlink_to(ROOT / "configs")
    (place / "my_training.yaml").write_text(next(b.text for b in blocks(ROOT / "docs/train.md", "yaml")))
    (place / "CHECKPOINT").touch()
    monkeypatch.setattr(sys, "argv", ["anomalib"])
    try:
        assert understood(command, monkeypatch)
    except SystemExit as end:
        pytest.fail(f"{command}: {end} {capsys.readouterr().err[-500:]}")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_files_and_tests_that_a_page_names_are_there(path):
    text = path.read_text(encoding="utf-8")
    for found in re.findall(r"\b(?:configs|tests|tools|benchmarks)/[\w/.-]+\.(?:yaml|py)\b", text):
        assert (ROOT / found).is_file(), f"{name(path)} names {found}"
    everything = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    for found in set(re.findall(r"`(test_\w+)`", text)):
        assert f"def {found}(" in everything, f"{name(path)} names {found}"


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent.name not in {"docs", "measured"}], ids=name)
def test_links_outside_the_site(path):
    # Sphinx looks after the links of its own pages.
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(path)):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (path.parent / target).exists(), f"{name(path)} links to {target}"


def test_every_page_is_in_the_list_of_the_site():
    listed = set("".join(block.text for block in blocks(ROOT / "docs/index.md", "{toctree}")).split())
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages <= listed


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
