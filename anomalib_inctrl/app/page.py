# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app's page, made with Gradio."""

from __future__ import annotations

import functools
import hashlib
import html
import logging
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import gradio as gr
import pandas as pd
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_inctrl.app.service import PredictionService, score_table, to_csv
from anomalib_inctrl.demo import DemoSettings, render_category
from anomalib_inctrl.errors import (
    BackboneError,
    CheckpointError,
    ImageDataError,
    ImageFileError,
    PretrainedWeightsError,
    PromptError,
)
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.io.images import IMAGE_SUFFIXES, read_image
from anomalib_inctrl.predictor import Prediction

logger = logging.getLogger(__name__)

_THUMBNAIL, _LARGE = 320, 720
_TERMS = {
    "text_score": "what the text prompts say",
    "patch_score": "the patch least like the normal pictures",
    "image_score": "the whole picture against the normal ones",
    "head_score": "InCTRL's head over the map of differences",
}
_TOLD = (BackboneError, CheckpointError, ImageFileError, ImageDataError, PretrainedWeightsError, PromptError)
_Handler = TypeVar("_Handler", bound=Callable[..., Any])

# Fonts that are on the visitor's machine: the page asks nobody else for anything.
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """.gradio-container {max-width: 1400px !important; margin: auto}
#verdict h2 {margin: 0}
#prompt-gallery .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important}"""
_HEADING = """# Show a few good ones, judge the next
Drop normal pictures of a thing, say what it is, and drop the pictures to judge. Nothing leaves the machine that runs
this app."""


def _told(handler: _Handler) -> _Handler:
    """Tell a visitor what was wrong with the input and leave the page as it is; other faults go to the log."""

    @functools.wraps(handler)
    def told(*args: Any, **options: Any) -> Any:
        try:
            return handler(*args, **options)
        except _TOLD as error:
            # No gr.Error: it would write "Error" over everything that shows results.
            gr.Warning(html.escape(str(error)), title="Not yet")
            return gr.skip()
        except Exception as error:
            logger.exception("%s failed", handler.__name__)
            msg = f"The app failed at this ({type(error).__name__}); its log says more."
            raise gr.Error(msg, print_exception=False) from error

    return told  # type: ignore[return-value]


class Handlers:
    """What the page's components call.

    Args:
        judge: What does the work.
        folder: Folder for tables to download and the example; to be removed with the app.
    """

    def __init__(self, judge: PredictionService, folder: Path) -> None:
        self.judge = judge
        self.folder = folder

    @_told
    def show_prompts(self, files: list[str] | None) -> Any:
        """Check the normal pictures and show them."""
        if not files:
            return gr.Gallery(value=[], visible=False)
        pictures = [_thumbnail(path) for path in self.judge.check_prompts(files)]
        return gr.Gallery(value=pictures, visible=True, height=120 if len(pictures) <= 4 else 200)

    @_told
    def judge_pictures(
        self,
        prompts: list[str] | None,
        queries: list[str] | None,
        class_name: str,
        model: str,
        weights: str,
        judged_by: object,
    ) -> tuple[Any, ...]:
        """Predict; the results, their prompts, the one to show, the heat maps, what was left out, and the threshold.

        The threshold begins at the highest score of the normal pictures and stays where the visitor puts it until
        something else judges.
        """
        done = self.judge.judge(prompts, queries, class_name, model, weights)
        judging = [prompts, class_name, model, weights]
        start = 0.5 if done.highest_normal is None else min(math.ceil(done.highest_normal * 1000) / 1000, 1)
        threshold = gr.Slider() if judging == judged_by else gr.Slider(value=start)
        heat_maps = [
            (result.heat_map(_THUMBNAIL), f"{result.score:.3f}  {_short(result.name)}") for result in done.results
        ]
        told = gr.Textbox(value="\n".join(done.left_out), visible=bool(done.left_out), lines=len(done.left_out) or 1)
        shown = gr.Gallery(value=heat_maps, selected_index=0)
        return done.results, list(prompts or []), 0, shown, told, threshold, judging

    @_told
    def show_result(self, results: list[Prediction], chosen: int, prompts: list[str]) -> tuple[Any, ...]:
        """Heat map, components and sheet of the chosen result."""
        if not results:
            return None, [], None
        result = results[chosen]
        rows = [[_words(term), f"{value:.3f}", _TERMS.get(term, "")] for term, value in result.components.items()]
        return result.heat_map(_LARGE), rows, result.explain(prompts)

    @_told
    def show_labels(
        self, results: list[Prediction], chosen: int, threshold: float, request: gr.Request
    ) -> tuple[Any, ...]:
        """Verdict of the chosen result, table of all, and the file of it."""
        if not results:
            return "", pd.DataFrame(), gr.DownloadButton(interactive=False)
        scores = score_table(results, threshold)
        # The session's name comes from the visitor: no part of a path.
        session = hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:16]
        path = write_text_atomic(self.folder / session / "scores.csv", to_csv(scores))
        shown = (_verdict(results[chosen], threshold), _for_display(scores))
        return *shown, gr.DownloadButton(value=path, interactive=True)

    def offer_weights(self, model: str) -> Any:
        """The weights on offer for a model."""
        names = self.judge.weights_of(model) if model in self.judge.models else []
        return gr.Dropdown(choices=names, value=names[0] if names else None)

    @_told
    def fill_in(self) -> tuple[Any, ...]:
        """Render an example: normal pictures, what they show, pictures to judge."""
        settings = DemoSettings(train_count=4, test_normal_count=3, test_anomalous_count=5)
        category = render_category(self.folder / "example", "washer", settings)
        prompts, queries = (
            [str(_flat_copy(path, self.folder / split)) for path in sorted((category / split).rglob("*.png"))]
            for split in ("train", "test")
        )
        return prompts, "washer", queries


def choose_from_table(event: gr.SelectData) -> int:
    """The result of a row, which the visitor may have sorted elsewhere."""
    return int(event.row_value[0]) - 1


def choose_from_gallery(event: gr.SelectData) -> int:
    """The result of a heat map."""
    return int(event.index)


def build_page(judge: PredictionService, folder: Path) -> gr.Blocks:
    """Lay out the page.

    Args:
        judge: What does the work.
        folder: Folder for tables to download and the example; to be removed with the app.

    Returns:
        The page, to be launched.
    """
    handlers = Handlers(judge, folder)
    with gr.Blocks(title="anomalib-inctrl", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_HEADING + _note_on_backbone(judge))
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                given = _lay_out_form(handlers)
            with gr.Column(scale=5, min_width=480):
                _lay_out_results(handlers, given)
    return page


class _Form(NamedTuple):
    prompts: gr.File
    queries: gr.File
    class_name: gr.Textbox
    model: gr.Dropdown
    weights: gr.Dropdown
    run: gr.Button


def _lay_out_form(handlers: Handlers) -> _Form:
    judge = handlers.judge
    limits, first = judge.limits, judge.models[0]
    prompts = _upload(f"1. Normal pictures (1 to {limits.prompts})", "prompts")
    gallery = gr.Gallery(
        label="Prompts",
        elem_id="prompt-gallery",
        columns=4,
        height=120,
        interactive=False,
        visible=False,
        object_fit="contain",
        buttons=[],
    )
    class_name = gr.Textbox(
        label="2. What they show",
        placeholder="metal nut",
        info="In English: it goes into the text prompts.",
        max_length=limits.letters,
        elem_id="class-name",
    )
    queries = _upload(f"3. Pictures to judge (1 to {limits.queries})", "queries")
    offered = judge.weights_of(first)
    with gr.Row():
        model = gr.Dropdown(judge.models, value=first, label="Model", elem_id="model", min_width=130)
        weights = gr.Dropdown(offered, value=offered[0], label="Heads", elem_id="weights", min_width=130)
    with gr.Row():
        run = gr.Button("PredictionService", variant="primary", elem_id="judge", scale=2)
        example = gr.Button("Example", elem_id="example", min_width=100)
    prompts.change(handlers.show_prompts, prompts, gallery, show_progress="hidden")
    model.change(handlers.offer_weights, model, weights, show_progress="hidden")
    example.click(handlers.fill_in, None, [prompts, class_name, queries])
    return _Form(prompts, queries, class_name, model, weights, run)


def _lay_out_results(handlers: Handlers, form: _Form) -> None:
    results, prompts, chosen, judged_by = gr.State([]), gr.State([]), gr.State(0), gr.State(None)
    left_out = gr.Textbox(label="Left out", elem_id="left-out", interactive=False, visible=False)
    gallery = gr.Gallery(
        label="Heat maps, most abnormal first",
        elem_id="gallery",
        columns=6,
        height=230,
        allow_preview=False,
        interactive=False,
        object_fit="contain",
        buttons=[],
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            heat_map = gr.Image(
                label="Heat map", elem_id="heat-map", interactive=False, height=380, buttons=["fullscreen"]
            )
        with gr.Column(scale=2, min_width=240):
            verdict = gr.Markdown(elem_id="verdict")
            components = gr.Dataframe(
                headers=["term", "value", "which is"],
                datatype=["str", "str", "str"],
                label="Terms of the score",
                elem_id="components",
                interactive=False,
                wrap=True,
                column_widths=["32%", "20%", "48%"],
                buttons=[],
            )
    threshold = gr.Slider(
        0,
        1,
        value=0.5,
        step=0.001,
        label="Threshold",
        info="A score above it counts as anomalous. It begins at the highest score of your normal pictures, each "
        "judged by the others; set it between pictures you know.",
        elem_id="threshold",
    )
    table = gr.Dataframe(
        headers=["#", "picture", "score", "verdict"],
        label="All pictures",
        elem_id="table",
        interactive=False,
        max_height=320,
        buttons=[],
    )
    download = gr.DownloadButton("Download CSV", elem_id="download", interactive=False, size="md")
    with gr.Accordion("Everything on one sheet", open=False):
        sheet = gr.Image(
            label="Sheet", elem_id="sheet", interactive=False, format="png", buttons=["download", "fullscreen"]
        )

    result = {
        "fn": handlers.show_result,
        "inputs": [results, chosen, prompts],
        "outputs": [heat_map, components, sheet],
    }
    labels = {
        "fn": handlers.show_labels,
        "inputs": [results, chosen, threshold],
        "outputs": [verdict, table, download],
        "show_progress": "hidden",
    }
    gr.on(
        [form.run.click, form.class_name.submit],
        handlers.judge_pictures,
        [form.prompts, form.queries, form.class_name, form.model, form.weights, judged_by],
        [results, prompts, chosen, gallery, left_out, threshold, judged_by],
        concurrency_limit=1,
    ).success(**result).success(**labels)
    for component, choose in ((gallery, choose_from_gallery), (table, choose_from_table)):
        component.select(choose, None, chosen, show_progress="hidden").success(
            **result, show_progress="hidden"
        ).success(**labels)
    threshold.change(**labels, trigger_mode="always_last")


def _upload(label: str, elem_id: str) -> gr.File:
    return gr.File(label=label, file_count="multiple", file_types=sorted(IMAGE_SUFFIXES), elem_id=elem_id, height=140)


def _note_on_backbone(judge: PredictionService) -> str:
    if judge.pretrained != "demo":
        return f" Backbone: {judge.backbone}, {judge.pretrained}."
    return (
        "\n\n*This runs on the package's demonstration encoder, a small CLIP trained on "
        "rendered pictures: it shows how things work, not how well they can. For real use start the app with an "
        "OpenCLIP backbone, see `anomalib-inctrl app --help`.*"
    )


def _flat_copy(path: Path, folder: Path) -> Path:
    """Copy a picture under a name that tells its folder, which uploads lose."""
    folder.mkdir(exist_ok=True)
    return Path(shutil.copyfile(path, folder / f"{path.parent.name}_{path.name}"))


def _thumbnail(path: Path) -> Image.Image:
    picture: Image.Image = to_pil_image(read_image(path))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return picture


def _verdict(result: Prediction, threshold: float) -> str:
    # Numbers only: names are a visitor's, and this is Markdown.
    word, sign = ("anomalous", ">") if result.score > threshold else ("normal", "≤")
    return f"## {word}\nscore **{result.score:.3f}** {sign} threshold {threshold:.3f}"


def _for_display(scores: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"#": range(1, len(scores) + 1), "picture": scores.image_path})
    shown["score"] = scores.score.map("{:.3f}".format)
    shown["verdict"] = scores.pred_label.map({0: "normal", 1: "anomalous"})
    for term in (name for name in scores.columns if name in _TERMS):
        shown[_words(term)] = scores[term].map("{:.3f}".format)
    return shown


def _words(term: str) -> str:
    return term.replace("_", " ")


def _short(name: str, length: int = 24) -> str:
    text = Path(name).name
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2) :]}"
