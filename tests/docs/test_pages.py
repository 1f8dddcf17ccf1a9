# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation's Python runs, its commands parse, and the files, tests and links it names exist."""

import argparse
import importlib
import re
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
from anomalib.cli.cli import AnomalibCLI
from PIL import Image

from anomalib_inctrl import Detector, InCTRL, InCTRLDemo
from anomalib_inctrl.benchmark.pipeline import GeneralistBenchmark
from anomalib_inctrl.cli import _COMMANDS
from anomalib_inctrl.prompts import SELECTORS

ROOT = Path(__file__).parents[2]
PATTERNS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/measured/*.md", "anomalib_inctrl/models/*/README.md")
TEXTS = {str(path.relative_to(ROOT)): path.read_text("utf-8") for part in PATTERNS for path in sorted(ROOT.glob(part))}
FENCE = re.compile(r"^( *)```(\S*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
# Blocks that are not run, by a word in them, and why; their imports are.
NOT_RUN = {
    "configs/benchmarks/embedded.yaml": "the whole benchmark takes minutes",
    "OpenVINOInferencer(": "exports are run by tests/engine/test_export.py",
    "onnxruntime.": "the same",
    'torch.load("exported': "the same",
    "push_to_hub": "needs a connection",
}


def blocks(page, language):
    """The fenced blocks of a page: the number of lines before each, and its text without indentation."""
    text = TEXTS[page]
    found = [block for block in FENCE.finditer(text) if block[2] == language]
    return [(text.count("\n", 0, block.start(3)), dedent(block[3])) for block in found]


def run(text, page, line, space):
    exec(compile("\n" * line + text, page, "exec"), space)


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
    (folder / "my_training.yaml").write_text(blocks("docs/train.md", "yaml")[0][1])
    return folder


PYTHON = [(page, *block) for page in TEXTS for block in blocks(page, "python") if page != "CONTRIBUTING.md"]


@pytest.mark.parametrize(("page", "line", "text"), PYTHON, ids=[f"{page}:{line}" for page, line, _ in PYTHON])
def test_python_block_runs(page, line, text, place, monkeypatch):
    monkeypatch.chdir(place)
    if any(word in text for word in NOT_RUN):
        text = "\n".join(re.findall(r"^from anomalib_inctrl.*", text, flags=re.MULTILINE))
    # Starting worker processes would take longer than reading five images.
    text = text.replace('MVTecAD(category="bottle")', 'MVTecAD(category="bottle", num_workers=0)')
    run(text, page, line, {"__name__": "__main__", "images": ["to_check"]})


def test_examples_of_extensions_and_their_tests_run(tmp_path, monkeypatch):
    for number in range(12):
        path = tmp_path / "brackets" / ("good", "bad")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (20 * number, number, 0)).save(path)
    monkeypatch.chdir(tmp_path)
    for name, selector in SELECTORS.items():
        monkeypatch.setitem(SELECTORS, name, selector)
    monkeypatch.setitem(SELECTORS, "typical", None)  # removed afterwards
    space = {"__name__": "contributing"}
    for line, text in blocks("CONTRIBUTING.md", "python"):
        run(text, "CONTRIBUTING.md", line, space)
    tests = [value for name, value in space.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()
    assert InCTRL(prompt_selection="typical").hparams["prompt_selection"] == "typical"
    # Each kind of extension has an example.
    assert {"TypicalSelector", "backbone", "Brackets", "data", "BrierLoss", "PatchModel"} <= space.keys()


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
    """Commands of all pages, each once: continued lines joined, comments removed."""
    texts = (text.replace("\\\n", " ") for page in TEXTS for _, text in blocks(page, "bash"))
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for text in texts for line in text.splitlines())
    return dict.fromkeys(line for line in lines if line and "..." not in line)


@pytest.mark.parametrize("command", list(commands()))
def test_shell_line_parses(command, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    try:
        parse(command, monkeypatch)
    except SystemExit as end:
        pytest.fail(f"{command}: {end} {capsys.readouterr().err[-500:]}")


@pytest.mark.parametrize("page", TEXTS)
def test_named_files_tests_and_links_exist(page):
    text = TEXTS[page]
    files = re.findall(r"\b(?:anomalib_inctrl|configs|tests|tools|benchmarks)/[\w/.-]+\.(?:yaml|py)\b", text)
    assert not [file for file in files if not (ROOT / file).is_file()]
    tests = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests]
    if not page.startswith("docs/"):  # Sphinx checks the links of the site's pages
        links = re.findall(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)", FENCE.sub("", text))
        assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
