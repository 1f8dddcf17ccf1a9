# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Formulas as MathML, which browsers draw by themselves: no script from elsewhere, and none to wait for."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import SphinxError
from sphinx.util.math import get_node_equation_number


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer under the name that `html_math_renderer` takes."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _convert(text: str, *, block: bool) -> str:
    # docutils does not know all of these; in MathML sizes follow from the content anyway.
    text = re.sub(r"\\[bB]igg?[lr]?(?![A-Za-z])", "", text).replace(r"\tfrac", r"\frac")
    text = re.sub(r"\\frac(\w)(\w)", r"\\frac{\1}{\2}", text)
    try:
        return tex2mathml(text, as_block=block)  # type: ignore[no-any-return]
    except MathError as error:
        msg = f"This formula cannot be converted to MathML ({error}): {text}"
        raise SphinxError(msg) from error


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_convert(node.astext(), block=False))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    text = node.astext()
    if r"\\" in text and r"\begin" not in text:
        text = r"\begin{aligned}" + text + r"\end{aligned}"
    number = get_node_equation_number(self, node) if node.get("number") else ""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate"))
    self.body.append(_convert(text, block=True))
    self.body.append(f"<span class='eqno'>({number})</span></div>\n" if number else "</div>\n")
    raise nodes.SkipNode
