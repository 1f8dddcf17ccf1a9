# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation's Python runs, its commands parse, and the files, tests and links it names exist."""

import argparse
import importlib
import re
import shlex

import pytest
from anomalib.cli.cli import AnomalibCLI

from anomalib_inctrl import Detector, InCTRLDemo
from anomalib_inctrl.benchmark.pipeline import GeneralistBenchmark
from anomalib_inctrl.cli import _COMMANDS

from .pages import PAGES, ROOT, blocks, name, prose, shell_lines

# Blocks that are not run, by a word in them, and why; their imports are.
NOT_RUN = {
    "configs/benchmarks/embedded.yaml": "the whole benchmark takes minutes",
    "OpenVINOInferencer(": "exports are run by tests/engine/test_export.py",
    "onnxruntime.": "the same",
    'torch.load("exported': "the same",
    "push_to_hub": "needs a connection",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of the examples: good/ and to_check/, checkpoints, configs, and a category in MVTec AD's layout."""
    folder = tmp_path_factory.mktemp("examples")
    data = folder / "datasets" / "MVTecAD"
    InCTRLDemo(root=data, category="washer", train_count=5, test_normal_count=2, test_anomalous_count=3).prepare_data()
    (data / "washer").rename(data / "bottle")
    images = sorted((data / "bottle" / "train" / "good").glob("*.png"))
    for target in ("good/1.png", "good/2.png", "good/3.png", "to_check/1.png", "to_check/2.png", "image.png"):
        (folder / target).parent.mkdir(exist_ok=True)
        (folder / target).write_bytes(images[int(target.startswith("to_check"))].read_bytes())
    detector = Detector(backbone="mini-clip-16-240", pretrained="demo", device="cpu")
    detector.set_prompts(folder / "good", class_name="metal nut")
    for checkpoint in ("trained.ckpt", "inctrl_v2.ckpt"):
        detector.save(folder / checkpoint)
    (folder / "CHECKPOINT").touch()
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "my_training.yaml").write_text(blocks(ROOT / "docs/train.md", "yaml")[0].text)
    return folder


def python_blocks():
    for path in PAGES:
        for block in blocks(path, "python") if path.name != "CONTRIBUTING.md" else []:  # see test_contributing.py
            yield pytest.param(path, block, id=f"{name(path)}:{block.line}")


@pytest.mark.parametrize(("path", "block"), list(python_blocks()))
def test_python_block_runs(path, block, place, monkeypatch):
    monkeypatch.chdir(place)
    text = block.text
    if any(word in text for word in NOT_RUN):
        text = "\n".join(re.findall(r"^from anomalib_inctrl.*", text, flags=re.MULTILINE))
    # Starting worker processes would take longer than reading five images.
    text = text.replace('MVTecAD(category="bottle")', 'MVTecAD(category="bottle", num_workers=0)')
    exec(compile("\n" * (block.line - 1) + text, str(path), "exec"), {"__name__": "__main__", "images": ["to_check"]})


class ParsedError(Exception):
    """Raised in place of running a command that has been parsed."""


def parse_own_command(arguments, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with pytest.raises(ParsedError):
        importlib.import_module(_COMMANDS[arguments[0]].module).main(arguments[1:])


def parse_anomalib(arguments, monkeypatch):
    if arguments[0] == "generalist":
        GeneralistBenchmark.get_parser().parse_args(arguments[1:])
    elif arguments[0] in _COMMANDS:
        parse_own_command(arguments, monkeypatch)
    elif arguments[0] == "benchmark":  # its config is read in test_configs.py
        assert (ROOT / arguments[arguments.index("--config") + 1]).is_file()
    elif "--model.help" not in arguments:
        monkeypatch.setattr("sys.argv", ["anomalib"])
        with pytest.raises(SystemExit) as end:
            AnomalibCLI(args=[*arguments, "--print_config"])
        assert end.value.code == 0


def parse(command, monkeypatch):
    """Parse a command with the parser of its program."""
    program, *arguments = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=.*", word)]
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == "python" and arguments[0].endswith(".py"):
        # Benchmarks share arguments.
        source = "".join((ROOT / file).read_text() for file in (arguments[0], "benchmarks/timing.py"))
        assert all(f'"{word}"' in source for word in arguments if word.startswith("--"))
    elif program in {"anomalib", "anomalib-inctrl"}:
        parse_anomalib(arguments, monkeypatch)
    else:
        assert program in {"pip", "python", "ray"}


def commands():
    pages = {command: name(path) for path in PAGES for command in shell_lines(path) if "..." not in command}
    return [pytest.param(command, id=f"{page}: {command[:60]}") for command, page in pages.items()]


@pytest.mark.parametrize("command", commands())
def test_shell_line_parses(command, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    try:
        parse(command, monkeypatch)
    except SystemExit as end:
        pytest.fail(f"{command}: {end} {capsys.readouterr().err[-500:]}")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_named_files_and_tests_exist(path):
    text = path.read_text(encoding="utf-8")
    for found in re.findall(r"\b(?:anomalib_inctrl|configs|tests|tools|benchmarks)/[\w/.-]+\.(?:yaml|py)\b", text):
        assert (ROOT / found).is_file(), found
    everything = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    for found in set(re.findall(r"`(test_\w+)`", text)):
        assert f"def {found}(" in everything, found


@pytest.mark.parametrize("path", [path for path in PAGES if path.parent.name not in {"docs", "measured"}], ids=name)
def test_links_outside_the_site_lead_to_files(path):
    # Sphinx checks the links of the site's pages.
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(path)):
        assert target.startswith(("http:", "https:")) or (path.parent / target).exists(), target
