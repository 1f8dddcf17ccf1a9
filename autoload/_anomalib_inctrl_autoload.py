# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Registers anomalib-inctrl with anomalib as soon as ``anomalib.models`` has been imported.

The same is done for its pipeline as soon as ``anomalib.cli.pipelines``, which lists pipelines, has been imported. After
``anomalib.cli.cli``, which shows a traceback of every error, the plugin's own are shown in one line.

Anomalib has no entry point for any of it, so a start-up file (``anomalib_inctrl.pth``, from Python 3.15 on
``anomalib_inctrl.start``) calls :func:`install` whenever Python starts. This puts three small finders in front of the
import system and does nothing else: no import beyond the standard library, none of anomalib. Setting the environment
variable ``ANOMALIB_INCTRL_AUTOLOAD`` to 0 turns it off.
"""

import os
import sys

# True for type checkers; importing `typing`, or what annotations name, would be most of what a Python start pays.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_HOST = "anomalib.models"
_PIPELINES = "anomalib.cli.pipelines"
_CLI = "anomalib.cli.cli"
_PLUGIN = "anomalib_inctrl"
_NAMES = ("InCTRL", "InCTRLv2")
_SWITCH = "ANOMALIB_INCTRL_AUTOLOAD"


class _AfterHostImport:
    """A finder that never finds anything by itself; it hangs something of the plugin's behind a host's import."""

    def __init__(self, host: str, then: "Callable[[ModuleType], None]") -> None:
        self.host = host
        self._then = then
        self._searching = False

    def find_spec(self, name: str, *_: object) -> "ModuleSpec | None":
        if name != self.host or self._searching:
            return None
        from importlib.util import find_spec

        # The search asks every finder, this one as well, and maybe another hook that asks this one.
        self._searching = True
        try:
            spec = find_spec(name)
        finally:
            self._searching = False
        if spec is not None:
            self._watch(spec)
        return spec

    def _watch(self, spec: "ModuleSpec") -> None:
        """Let the host's loader do what is to follow once it is done, and then be as it was."""
        loader = spec.loader
        execute = getattr(loader, "exec_module", None)
        if loader is None or execute is None:
            return

        def exec_module(module: "ModuleType") -> None:
            _ignore_deprecations()
            execute(module)  # an error in here is anomalib's own, and the hook stays for the next attempt
            vars(loader).pop("exec_module", None)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            self._then(module)

        try:
            loader.exec_module = exec_module  # type: ignore[method-assign]
        except AttributeError:  # a loader with fixed attributes: the short names are missing, nothing else
            return


def _ignore_deprecations() -> None:
    """Ignore what anomalib's own modules are warned of when they are imported; no user can act on it."""
    import warnings

    for package in ("Importing from timm.models.layers", "The anomalib.models.components.dinov2 package"):
        warnings.filterwarnings("ignore", message=f"{package} is deprecated", category=FutureWarning)


def _load_plugin(host: "ModuleType") -> None:
    """Import the plugin, which registers itself; whatever is wrong with it, ``host`` stays usable."""
    taken = [name for name in _NAMES if hasattr(host, name)]
    if taken:
        _warn(
            f"anomalib has a model {' and '.join(taken)} of its own, so anomalib-inctrl does not register its models. "
            f"Use dotted names for them, for example {_PLUGIN}.{taken[0]}."
        )
        return
    try:
        __import__(f"{_PLUGIN}.registration")
        sys.modules[f"{_PLUGIN}.registration"].register()
    except Exception as error:  # nothing a plugin does may break anomalib
        _warn(
            f"anomalib-inctrl could not be loaded and its models are missing ({type(error).__name__}: {error}). "
            f"anomalib works without it. `python -c 'import {_PLUGIN}'` shows the whole error; "
            f"set {_SWITCH}=0 to load anomalib without anomalib-inctrl."
        )


def _register_pipelines(host: "ModuleType") -> None:
    """Add the plugin's pipelines to anomalib's list; whatever is wrong with them, ``host`` stays usable."""
    plugin = sys.modules.get(f"{_PLUGIN}.registration")
    if plugin is None:  # a warning has been shown
        return
    try:
        plugin.register_pipelines(host)
    except Exception as error:  # nothing a plugin does may break anomalib
        _warn(
            f"The pipelines of anomalib-inctrl are missing, anomalib works without ({type(error).__name__}: {error})."
        )


def _shorten_errors(_host: "ModuleType") -> None:
    """Show the plugin's errors in one line; anomalib's command line has just installed its own tracebacks."""
    console = sys.modules.get(f"{_PLUGIN}.console")
    if console is not None:
        console.shorten_errors()


def _warn(message: str) -> None:
    import warnings

    try:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    except RuntimeWarning:  # warnings are errors here, but this one must not end the import of anomalib
        sys.stderr.write(f"RuntimeWarning: {message}\n")


def install() -> None:
    """Put the finders in place, once, unless the environment variable turns them off."""
    if os.environ.get(_SWITCH, "").strip().lower() not in {"0", "false", "no", "off"}:
        attach()


def attach() -> None:
    """Put the finders in place, once."""
    present = {finder.host for finder in sys.meta_path if isinstance(finder, _AfterHostImport)}
    for host, then in ((_CLI, _shorten_errors), (_PIPELINES, _register_pipelines), (_HOST, _load_plugin)):
        if host not in present and host not in sys.modules:
            sys.meta_path.insert(0, _AfterHostImport(host, then))
