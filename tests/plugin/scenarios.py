# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Scenarios that each need a Python process of its own, with the plugin installed and anomalib not yet imported.

Importing anomalib takes ten seconds, nine of them for other packages. One process, prepared by its start-up files like
any other, imports those; every scenario then runs in a fork of it. Prints a JSON object: scenario -> null, or the
traceback of its failure.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

HOST = "anomalib.models"
# Packages that anomalib imports; one that is missing here is imported in every scenario again.
PRELOADED = (
    "torch",
    "torchvision.transforms.v2",
    "lightning.pytorch.cli",
    "torchmetrics",
    "timm",
    "kornia",
    "FrEIA.framework",
    "skimage.io",
    "sklearn.decomposition",
    "pandas",
    "matplotlib.pyplot",
    "cv2",
    "omegaconf",
    "open_clip",
)
# A small backbone with random weights, so that nothing is downloaded.
MODEL = {"backbone": "ViT-S-32-alt", "pretrained": None}
SCENARIOS: dict[str, Callable[[], None]] = {}


def scenario(function: Callable[[], None]) -> Callable[[], None]:
    SCENARIOS[function.__name__] = function
    return function


def assert_registered() -> None:
    import anomalib.data
    import anomalib.models

    ours = sys.modules["anomalib_inctrl"]
    assert anomalib.models.InCTRL is ours.InCTRL
    assert anomalib.models.__all__.count("InCTRL") == 1
    assert "anomalib_inctrl" in anomalib.models.ALLOWED_MODULES
    for name in ("GeneralistDataModule", "InCTRLDemo"):
        assert getattr(anomalib.data, name).__module__.startswith("anomalib_inctrl.")
        assert anomalib.data.__all__.count(name) == 1
    assert not hooked(), "the hook stays although its work is done"


def hooked(host: str = HOST) -> bool:
    ours = [finder for finder in sys.meta_path if type(finder).__module__ == "_anomalib_inctrl_autoload"]
    return any(finder.host == host for finder in ours)


def cli_output(*arguments: str) -> str:
    """What ``anomalib`` prints for arguments."""
    from anomalib.cli.cli import main

    sys.argv = ["anomalib", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        main()
    return output.getvalue()


def _first(module: str) -> Callable[[], None]:
    def run() -> None:
        importlib.import_module(module)
        import anomalib.models  # noqa: F401

        assert_registered()

    run.__name__ = f"first_{module.replace('.', '_')}"
    return scenario(run)


for _module in (
    "anomalib.models",
    "anomalib.data",
    "anomalib.engine",
    "anomalib.cli",
    "anomalib_inctrl.prompts",
    "anomalib_inctrl.models",
    "anomalib_inctrl.predictor",
    "anomalib_inctrl.callbacks",
):
    _first(_module)


@scenario
def importing_the_package_imports_no_other() -> None:
    import anomalib_inctrl
    from anomalib_inctrl.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as written:
        main(["--help"])
    assert "demo" in written.getvalue()
    assert not [name for name in sys.modules if name.split(".")[0] == "anomalib"]
    assert set(anomalib_inctrl.__all__) <= set(dir(anomalib_inctrl))
    assert {getattr(anomalib_inctrl, name) is not None for name in anomalib_inctrl.__all__} == {True}
    assert_registered()


@scenario
def without_the_start_up_file_the_import_registers() -> None:
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != "_anomalib_inctrl_autoload"]
    sys.modules["_anomalib_inctrl_autoload"] = None  # as if it were not there
    import anomalib_inctrl  # noqa: F401

    assert_registered()


@scenario
def importing_shows_no_warnings() -> None:
    with warnings.catch_warnings(record=True) as caught:
        from anomalib_inctrl import Detector  # noqa: F401
    ours = [str(warning.message) for warning in caught if warning.category is FutureWarning]
    assert not ours, ours


@scenario
def errors_end_in_one_line() -> None:
    import anomalib.cli.cli  # noqa: F401

    from anomalib_inctrl.errors import PromptError

    def shown(error: Exception) -> str:
        with contextlib.redirect_stderr(io.StringIO()) as written:
            sys.excepthook(type(error), error, None)
        return written.getvalue()

    assert shown(PromptError("Give more.")) == "error: Give more.\n(ANOMALIB_INCTRL_DEBUG=1 shows the traceback.)\n"
    assert "anomalib's own" in shown(ValueError("anomalib's own"))
    assert not shown(ValueError("anomalib's own")).startswith("error: ")
    os.environ["ANOMALIB_INCTRL_DEBUG"] = "1"
    assert not shown(PromptError("Give more.")).startswith("error: ")


@scenario
def names_resolve() -> None:
    from anomalib.data import get_datamodule
    from anomalib.models import get_model, list_models

    assert "InCTRL" in list_models("pascal")
    from anomalib_inctrl import InCTRL

    for name in ("InCTRL", "inctrl", "in_ctrl"):
        assert type(get_model(name, **MODEL)) is InCTRL
    for path in ("InCTRL", "anomalib.models.InCTRL", "anomalib_inctrl.InCTRL"):
        assert type(get_model({"class_path": path, "init_args": MODEL})) is InCTRL
    demo = get_datamodule({"class_path": "InCTRLDemo", "init_args": {"root": tempfile.mkdtemp()}})
    assert type(demo).__name__ == "InCTRLDemo"


@scenario
def command_line_knows_the_names() -> None:
    for subcommand in ("train", "test", "predict", "export"):
        assert "--model.k_shot" in cli_output(subcommand, "--model.help", "InCTRL"), subcommand
    for name in ("GeneralistDataModule", "InCTRLDemo"):
        assert "--data." in cli_output("train", "--data.help", name)
    assert "--data.category" in cli_output("test", "--data.help", "MVTecAD")


@scenario
def command_line_knows_the_pipeline() -> None:
    assert hooked("anomalib.cli.pipelines")
    assert "--report_only" in cli_output("generalist", "--help")
    assert not hooked("anomalib.cli.pipelines")


@scenario
def short_names_run_from_shell_and_file() -> None:
    """One training and one benchmark, with a small backbone."""
    import open_clip

    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    size = {"image_size": 96, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    Path("tiny.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": size, "text_cfg": text}))
    open_clip.add_model_config(folder / "tiny.json")
    counts = {"train_count": 4, "test_normal_count": 2, "test_anomalous_count": 4}
    model = {"class_path": "InCTRL", "init_args": {"backbone": "tiny", "pretrained": None, "k_shot": 1}}
    data = {"class_path": "InCTRLDemo", "init_args": {"root": "data", "num_workers": 0, **counts}}

    Path("train.json").write_text(json.dumps({"model": model, "data": data, "trainer": {"accelerator": "cpu"}}))
    cli_output("train", "--config", "train.json", "--model.k_shot", "2", "--model.visualizer", "false")
    assert list(folder.rglob("model.ckpt"))
    (config,) = folder.glob("results/**/config.yaml")
    assert "class_path: anomalib_inctrl.InCTRL\n" in config.read_text(), "saved configurations hold the dotted name"

    model["class_path"] = "anomalib_inctrl.InCTRL"
    Path("benchmark.json").write_text(
        json.dumps({"accelerator": "cpu", "benchmark": {"seed": 0, "model": model, "data": data}})
    )
    cli_output("benchmark", "--config", "benchmark.json")
    (table,) = folder.rglob("results.csv")
    assert "image_AUROC" in table.read_text()


@scenario
def looking_for_the_host_imports_nothing() -> None:
    import anomalib  # noqa: F401

    assert importlib.util.find_spec(HOST) is not None
    assert "anomalib_inctrl" not in sys.modules
    assert hooked()
    loader = importlib.import_module(HOST).__spec__.loader
    assert_registered()
    assert "exec_module" not in vars(loader), "the loader is left as it was found"


def _broken(name: str, source: str, text: str) -> None:
    def run() -> None:
        folder = Path(tempfile.mkdtemp())
        (folder / "anomalib_inctrl").mkdir()
        (folder / "anomalib_inctrl" / "__init__.py").write_text(source)
        sys.path.insert(0, str(folder))  # before the installed one
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from anomalib.models import Padim, list_models
        ours = [str(w.message) for w in caught if w.category is RuntimeWarning and "anomalib-inctrl" in str(w.message)]
        assert len(ours) == 1, ours
        assert text in ours[0], ours[0]
        assert Padim is not None
        assert "InCTRL" not in list_models("pascal")
        assert not hooked()

    run.__name__ = name
    scenario(run)


_broken("plugin_without_a_dependency", "import a_package_that_is_not_there", "a_package_that_is_not_there")
_broken("plugin_with_a_syntax_error", "def broken(:", "SyntaxError")


@scenario
def without_the_hook_dotted_names_and_an_import_work() -> None:
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != "_anomalib_inctrl_autoload"]
    import anomalib.models

    assert not hasattr(anomalib.models, "InCTRL"), "there is another way in than the hook"
    assert "anomalib_inctrl" not in sys.modules
    assert "--model.k_shot" in cli_output("train", "--model.help", "anomalib_inctrl.InCTRL")
    assert_registered()


@scenario
def own_command_needs_no_hook_and_lists_commands_and_versions() -> None:
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != "_anomalib_inctrl_autoload"]
    import anomalib_inctrl
    from anomalib_inctrl.cli import main

    def output(*arguments: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as written, contextlib.suppress(SystemExit):
            main(list(arguments))
        return written.getvalue()

    from anomalib_inctrl.cli import _ANOMALIB_COMMANDS

    assert _ANOMALIB_COMMANDS in output()
    assert all(f" {name} " in cli_output("--help") for name in _ANOMALIB_COMMANDS.split(", "))
    assert output("--version").startswith(f"anomalib-inctrl {anomalib_inctrl.__version__}\nanomalib 2.")
    assert "--model.k_shot" in output("train", "--model.help", "InCTRL")


def _in_fork(function: Callable[[], None]) -> str | None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        failure = ""
        try:
            os.close(reading)
            function()
        except BaseException:
            failure = traceback.format_exc()
        with os.fdopen(writing, "w") as pipe:
            pipe.write(failure)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        failure = pipe.read()
    _, status = os.waitpid(child, 0)
    return failure or (f"the process ended with status {status}" if status else None)


def main() -> None:
    results = sys.stdout
    sys.stdout = sys.stderr
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert hooked(), "the start-up file did not run"
    assert not [name for name in sys.modules if name.startswith("anomalib")], "the plugin must come after the fork"
    json.dump({name: _in_fork(function) for name, function in SCENARIOS.items()}, results)


if __name__ == "__main__":
    main()
