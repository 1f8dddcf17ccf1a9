# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Scenarios that each need a Python process of its own, with the plugin installed and anomalib not yet imported.

Importing anomalib takes ten seconds, nine of them for other packages. One process, prepared by its start-up files like
any other, imports those; every scenario runs in a fork of it. Prints a JSON object: scenario -> exit status.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

HOST, PIPELINES = "anomalib.models", "anomalib.cli.pipelines"
# Packages that anomalib imports; one that is missing here is imported in every scenario again.
PRELOADED = ["torch", "torchvision.transforms.v2", "lightning.pytorch.cli", "torchmetrics", "timm", "kornia", "pandas"]
PRELOADED += ["FrEIA.framework", "skimage.io", "sklearn.decomposition", "matplotlib.pyplot", "cv2", "omegaconf"]
PRELOADED += ["open_clip"]
# A small backbone with random weights, so that nothing is downloaded.
MODEL = {"backbone": "ViT-S-32-alt", "pretrained": None}


def hooks():
    return [finder for finder in sys.meta_path if type(finder).__module__ == "_anomalib_inctrl_autoload"]


def hooked(host=HOST):
    return host in {finder.host for finder in hooks()}


def remove_hooks():
    for finder in hooks():
        sys.meta_path.remove(finder)


def assert_registered():
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


def output(main, *arguments):
    """What a command's main function prints."""
    sys.argv = ["anomalib", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as written, contextlib.suppress(SystemExit):
        main()
    return written.getvalue()


def command(*arguments):
    from anomalib.cli.cli import main

    return output(main, *arguments)


def imported_first(module):
    with warnings.catch_warnings(record=True) as caught:
        importlib.import_module(module)
        import anomalib.models  # noqa: F401
    assert not [warning for warning in caught if warning.category is FutureWarning]
    assert_registered()


def scenario_importing_the_package_imports_no_other():
    import anomalib_inctrl
    from anomalib_inctrl.cli import main

    assert "demo" in output(main, "--help")
    assert not [name for name in sys.modules if name.split(".")[0] == "anomalib"]
    assert set(anomalib_inctrl.__all__) <= set(dir(anomalib_inctrl))
    assert None not in {getattr(anomalib_inctrl, name) for name in anomalib_inctrl.__all__}
    assert_registered()


def scenario_without_the_start_up_file_the_import_registers():
    remove_hooks()
    sys.modules["_anomalib_inctrl_autoload"] = None  # as if it were not there
    import anomalib_inctrl  # noqa: F401

    assert_registered()


def scenario_errors_end_in_one_line():
    import anomalib.cli.cli  # noqa: F401

    from anomalib_inctrl.errors import PromptError

    def shown(error):
        with contextlib.redirect_stderr(io.StringIO()) as written:
            sys.excepthook(type(error), error, None)
        return written.getvalue()

    assert shown(PromptError("Give more.")) == "error: Give more.\n(ANOMALIB_INCTRL_DEBUG=1 shows the traceback.)\n"
    assert not shown(ValueError("anomalib's own")).startswith("error: ")
    os.environ["ANOMALIB_INCTRL_DEBUG"] = "1"
    assert not shown(PromptError("Give more.")).startswith("error: ")


def scenario_names_resolve():
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


def scenario_command_line_knows_the_names_and_the_pipeline():
    assert hooked(PIPELINES)
    for subcommand in ("train", "test", "predict", "export"):
        assert "--model.k_shot" in command(subcommand, "--model.help", "InCTRL"), subcommand
    for name in ("GeneralistDataModule", "InCTRLDemo", "MVTecAD"):
        assert "--data." in command("train", "--data.help", name), name
    assert "--report_only" in command("generalist", "--help")
    assert not hooked(PIPELINES)


def scenario_short_names_are_read_from_files_and_saved_as_dotted_names():
    data = {"class_path": "InCTRLDemo", "init_args": {"root": tempfile.mkdtemp()}}
    config = Path(tempfile.mkdtemp(), "train.json")
    config.write_text(json.dumps({"model": {"class_path": "InCTRL", "init_args": MODEL}, "data": data}))
    saved = command("train", "--config", str(config), "--model.k_shot", "2", "--print_config")
    assert "class_path: anomalib_inctrl.InCTRL\n" in saved
    assert "k_shot: 2\n" in saved
    assert "class_path: anomalib_inctrl.InCTRLDemo\n" in saved


def scenario_looking_for_the_host_imports_nothing():
    import anomalib  # noqa: F401

    assert importlib.util.find_spec(HOST) is not None
    assert "anomalib_inctrl" not in sys.modules
    assert hooked()
    loader = importlib.import_module(HOST).__spec__.loader
    assert_registered()
    assert "exec_module" not in vars(loader), "the loader is left as it was found"


def broken_plugin_leaves_anomalib_usable(source, text):
    package = Path(tempfile.mkdtemp()) / "anomalib_inctrl"
    package.mkdir()
    (package / "__init__.py").write_text(source)
    sys.path.insert(0, str(package.parent))  # before the installed one
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from anomalib.models import Padim, list_models
    (message,) = [
        str(w.message) for w in caught if w.category is RuntimeWarning and "anomalib-inctrl" in str(w.message)
    ]
    assert text in message
    assert Padim is not None
    assert "InCTRL" not in list_models("pascal")
    assert not hooked()


def scenario_without_the_hook_dotted_names_and_an_import_work():
    remove_hooks()
    import anomalib.models

    assert not hasattr(anomalib.models, "InCTRL"), "there is another way in than the hook"
    assert "anomalib_inctrl" not in sys.modules
    assert "--model.k_shot" in command("train", "--model.help", "anomalib_inctrl.InCTRL")
    assert_registered()


def scenario_own_command_needs_no_hook_and_lists_commands_and_versions():
    remove_hooks()
    import anomalib_inctrl
    from anomalib_inctrl.cli import _ANOMALIB_COMMANDS, main

    assert _ANOMALIB_COMMANDS in output(main)
    assert all(f" {name} " in command("--help") for name in _ANOMALIB_COMMANDS.split(", "))
    assert output(main, "--version").startswith(f"anomalib-inctrl {anomalib_inctrl.__version__}\nanomalib 2.")
    assert "--model.k_shot" in output(main, "train", "--model.help", "InCTRL")


FIRST = ("anomalib.models", "anomalib.data", "anomalib.engine", "anomalib.cli", "anomalib_inctrl.prompts")
FIRST += ("anomalib_inctrl.models", "anomalib_inctrl.predictor", "anomalib_inctrl.callbacks")
SCENARIOS = {f"{module}_imported_first": partial(imported_first, module) for module in FIRST}
SCENARIOS |= {
    f"plugin_with_{text}": partial(broken_plugin_leaves_anomalib_usable, source, text)
    for source, text in (("import not_there", "not_there"), ("def broken(:", "SyntaxError"))
}
SCENARIOS |= {name: function for name, function in list(globals().items()) if name.startswith("scenario_")}

if __name__ == "__main__":
    results, sys.stdout = sys.stdout, sys.stderr
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert hooked(), "the start-up file did not run"
    assert not [name for name in sys.modules if name.startswith("anomalib")], "the plugin must come after the fork"
    statuses = {}
    for name, function in SCENARIOS.items():
        process = multiprocessing.get_context("fork").Process(target=function, name=name)
        process.start()
        process.join()  # what it raised is on stderr
        statuses[name] = process.exitcode
    json.dump(statuses, results)
