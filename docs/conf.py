# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Sphinx settings: `make docs` builds the site into docs/_build/html, warnings as errors."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "anomalib-inctrl"
author = "The anomalib-inctrl authors"
project_copyright = "2026 The anomalib-inctrl authors"
release = version_of("anomalib-inctrl")
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "arguments",
    "mathml",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

# Notebooks stay in notebooks/, where a reader of the repository looks for them; Sphinx reads copies.
shutil.copytree(
    HERE.parent / "notebooks", HERE / "_notebooks", ignore=shutil.ignore_patterns(".*", "*.py"), dirs_exist_ok=True
)

# Files of the repository that pages link to, so that the links work there as well, and the pages that show them.
SHOWN_ELSEWHERE = {
    "../anomalib_inctrl/backbones/weights/mini-clip-16-240-demo.md": "encoder.md",
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
}

exclude_patterns = ["_build", "measured", "**.ipynb_checkpoints"]

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nb_execution_mode = "off"  # `make notebooks` runs them; what they gave is committed
# Progress bars are for those who wait.
nb_remove_code_stderr = True
nb_output_stderr = "remove"
suppress_warnings = ["mystnb.unknown_mime_type"]

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

pygments_style = "tango"
pygments_dark_style = "monokai"
html_theme = "furo"
html_title = "anomalib-inctrl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app: object) -> None:
    """Leave out of the reference what comes from the frameworks' base classes; turn links to pages of the site."""
    app.connect("autodoc-skip-member", _skip)  # type: ignore[attr-defined]
    app.connect("source-read", _turn_links)  # type: ignore[attr-defined]


def _turn_links(_app: object, _page: str, source: list[str]) -> None:
    for outside, page in SHOWN_ELSEWHERE.items():
        source[0] = source[0].replace(f"]({outside}", f"]({page}")


def _skip(_app: object, _what: str, name: str, _member: object, skip: bool, _options: object) -> bool:
    return skip or name in {"training", "allow_zero_length_dataloader_with_multiple_devices"}
