# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app's page, built with Gradio."""

from __future__ import annotations

import functools
import html
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import pandas as pd
from PIL import Image, ImageOps
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_inctrl.app.service import (
    MOST_LETTERS,
    MOST_PROMPTS,
    MOST_QUERIES,
    UNTRAINED,
    PredictionService,
    check_prompts,
    label_of,
    render_example,
    score_table,
    summary,
    to_csv,
)
from anomalib_inctrl.backbones.packaged import DEMO_PRETRAINED
from anomalib_inctrl.errors import BackboneError, CheckpointError, ImageFileError, PretrainedWeightsError, PromptError
from anomalib_inctrl.io.files import write_text_atomic
from anomalib_inctrl.io.images import IMAGE_SUFFIXES, read_image
from anomalib_inctrl.predictor import Prediction

_THUMBNAIL, _LARGE, _STEP = 320, 720, 0.0001
_FRAMES = {"anomalous": "#b3261e", "normal": "#2f5f96"}
_COMPONENTS = {
    "text_score": "similarity to the text prompts for abnormal",
    "patch_score": "the patch least similar to the normal references",
    "image_score": "the whole image compared with the references",
    "head_score": "InCTRL's head over the residual map",
}
_THRESHOLD = (
    "A score above it is labelled anomalous. It starts at the highest score of your normal references, each compared "
    "with the others."
)
# Components that show results and cannot be edited.
_PLAIN: dict[str, Any] = {"interactive": False, "buttons": []}
_THUMBNAILS: dict[str, Any] = {"object_fit": "contain", "allow_preview": False, **_PLAIN}

# Fonts of the browser's machine: the page makes no request to other servers.
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """.gradio-container {max-width: 1400px !important; margin: auto}
#pred-label h2, #counts h3 {margin: 0}
#heat-maps .caption-label {max-width: 100%; left: 0; right: auto; font-size: 11px}
#prompt-gallery .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important}"""
_HEADING = """# Few-shot anomaly detection
Drop normal references of an object, name it, and drop the images to inspect. Nothing leaves the machine that runs
this app."""
_NOTE = """

*This uses the package's demonstration encoder, a small CLIP trained on rendered images, which does not show the
accuracy of the models. For real use start the app with an OpenCLIP backbone, see `anomalib-inctrl app --help`.*"""


class _Result(NamedTuple):
    """What a session keeps of its last request."""

    predictions: list[Prediction]
    heat_maps: list[Image.Image]
    left_out: list[str]
    settings: list[Any]  # references, class name, model and weights
    table: Path


def _reports_errors(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show what is wrong with the input and leave the page as it is; Gradio reports and logs other errors."""

    @functools.wraps(handler)
    def reporting(*args: Any) -> Any:
        try:
            return handler(*args)
        except (BackboneError, CheckpointError, ImageFileError, PretrainedWeightsError, PromptError) as error:
            # No gr.Error: it would write "Error" over every component that shows results.
            for line in str(error).splitlines():
                gr.Warning(html.escape(line), title="Check the input")
            return gr.skip()

    return reporting


@_reports_errors
def show_prompts(files: list[str] | None) -> Any:
    """Check the normal references and show them."""
    images = [to_pil_image(read_image(path)) for path in check_prompts(files)] if files else []
    for image in images:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return gr.Gallery(value=images, visible=bool(images), height=120 if len(images) <= 4 else 200)


def show_result(result: _Result | None, chosen: int, slider: float) -> Any:
    """Everything on the page that follows from the predictions, the one chosen, and the threshold."""
    if result is None:
        return gr.skip()
    predictions, prediction = result.predictions, result.predictions[chosen]
    threshold = None if prediction.threshold is None else slider
    scores, labels = score_table(predictions, threshold), [label_of(found, threshold) for found in predictions]
    tiles = [
        (
            ImageOps.expand(image, 10, _FRAMES[label]) if label else image,
            f"{found.score:.3f} {label} {_short(found.name)}",
        )
        for image, found, label in zip(result.heat_maps, predictions, labels, strict=True)
    ]
    # Numbers only: names come from the browser, and this is Markdown.
    text, label = f"## score {prediction.score:.3f}\nno threshold", None
    if threshold is not None:
        label = prediction.score > threshold
        text = (
            f"## {labels[chosen]}\nscore **{prediction.score:.3f}** {'>' if label else '≤'} threshold {threshold:.3f}, "
            f"p-value {prediction.p_value:.2f}"
        )
    return (
        f"### {summary(predictions, len(result.left_out), threshold)}",
        gr.Gallery(value=tiles, selected_index=chosen),
        prediction.heat_map(_LARGE),
        text,
        [[_words(name), f"{value:.3f}", _COMPONENTS.get(name, "")] for name, value in prediction.components.items()],
        _for_display(scores),
        gr.DownloadButton(value=write_text_atomic(result.table, to_csv(scores)), interactive=True),
        replace(prediction, threshold=threshold, label=label).explain(result.settings[0]),
    )


def build_page(service: PredictionService, folder: Path) -> gr.Blocks:
    """Lay out the page.

    Args:
        service: Makes the predictions.
        folder: Folder for tables to download and the example; to be removed with the app.

    Returns:
        The page, to be launched.
    """

    @_reports_errors
    def predict(
        files: list[str], queries: list[str], class_name: str, model: str, weights: str, before: _Result | None
    ) -> Any:
        """Predict; the threshold starts at that of the references whenever one of the settings changes."""
        predictions, left_out = service.predict(files, queries, class_name, model, weights)
        heat_maps = [prediction.heat_map(_THUMBNAIL) for prediction in predictions]
        settings, start = [files, class_name, model, weights], predictions[0].threshold
        table = Path(tempfile.mkdtemp(dir=folder)) / "scores.csv"
        new = {} if start is None or (before and settings == before.settings) else {"value": _rounded_up(start)}
        return (
            _Result(predictions, heat_maps, left_out, settings, table),
            0,
            gr.Textbox(value="\n".join(left_out), visible=bool(left_out)),
            gr.Slider(visible=start is not None, **new),
        )

    note = _NOTE if service.pretrained == DEMO_PRETRAINED else f" Backbone: {service.backbone}, {service.pretrained}."
    with gr.Blocks(title="anomalib-inctrl", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_HEADING + note)
        result, chosen = gr.State(None), gr.State(0)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                files, queries, class_name, model, weights = _lay_out_form(service)
                with gr.Row():
                    run = gr.Button("Predict", variant="primary", scale=2)
                    example = gr.Button("Example", min_width=100)
            with gr.Column(scale=5, min_width=480):
                left_out, slider, shown = _lay_out_results()
        form = [files, queries, class_name, model, weights]
        request = (predict, [*form, result], [result, chosen, left_out, slider])
        show = (show_result, [result, chosen, slider], shown)
        one = {"concurrency_limit": 1, "concurrency_id": "predict"}
        filled = example.click(lambda: render_example(folder), None, [files, class_name, queries], api_name="example")
        for asked in (gr.on([run.click, class_name.submit], *request, **one), filled.success(*request, **one)):
            asked.success(*show, show_progress="hidden")
        # The prediction of a heat map, or of a row of the table, which may be sorted in the browser.
        _counts, gallery, *_, table, _download, _figure = shown
        for component, choose in ((gallery, _of_heat_map), (table, _of_row)):
            component.select(choose, None, chosen, show_progress="hidden").success(*show, show_progress="hidden")
        slider.change(*show, show_progress="hidden", trigger_mode="always_last")
    return page


def _lay_out_form(service: PredictionService) -> tuple[Any, ...]:
    upload: dict[str, Any] = {"file_count": "multiple", "file_types": sorted(IMAGE_SUFFIXES), "height": 140}
    files = gr.File(label=f"1. Normal references (1 to {MOST_PROMPTS})", **upload)
    gallery = gr.Gallery(label="References", elem_id="prompt-gallery", columns=4, visible=False, **_THUMBNAILS)
    info = "In English: it goes into the text prompts."
    class_name = gr.Textbox(label="2. What they show", placeholder="metal nut", info=info, max_length=MOST_LETTERS)
    queries = gr.File(label=f"3. Images to inspect (1 to {MOST_QUERIES})", **upload)
    first = service.models[0]
    with gr.Row():
        model = gr.Dropdown(service.models, value=first, label="Model", min_width=130)
        weights = gr.Dropdown(service.weights_of(first), value=UNTRAINED, label="Heads", min_width=130)
    files.change(show_prompts, files, gallery, show_progress="hidden")
    model.change(lambda name: gr.Dropdown(service.weights_of(name), value=UNTRAINED), model, weights)
    return files, queries, class_name, model, weights


def _lay_out_results() -> tuple[Any, Any, list[Any]]:
    """What was left out, the threshold, and the components that `show_result` fills."""
    counts = gr.Markdown(elem_id="counts")
    left_out = gr.Textbox(label="Unreadable, left out", max_lines=8, interactive=False, visible=False)
    title = "Heat maps, most abnormal first"
    gallery = gr.Gallery(label=title, elem_id="heat-maps", columns=6, height=290, **_THUMBNAILS)
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=300):
            large = gr.Image(label="Heat map", height=380, interactive=False, buttons=["fullscreen"])
        with gr.Column(scale=2, min_width=240):
            label = gr.Markdown(elem_id="pred-label")
            head, widths = ["component", "value", "meaning"], ["30%", "20%", "50%"]
            about = "Components of the score"
            components = gr.Dataframe(headers=head, label=about, wrap=True, column_widths=widths, **_PLAIN)
    slider = gr.Slider(0, 1, step=_STEP, label="Threshold", info=_THRESHOLD, visible=False)
    table = gr.Dataframe(label="All images", max_height=320, **_PLAIN)
    download = gr.DownloadButton("Download CSV", interactive=False, size="md")
    with gr.Accordion("Everything in one figure", open=False):
        buttons = ["download", "fullscreen"]
        figure = gr.Image(label="Explanation figure", format="png", interactive=False, buttons=buttons)
    return left_out, slider, [counts, gallery, large, label, components, table, download, figure]


def _of_row(event: gr.SelectData) -> int:
    return int(event.row_value[0]) - 1


def _of_heat_map(event: gr.SelectData) -> int:
    return int(event.index)


def _rounded_up(threshold: float) -> float:
    """The first step of the slider that is not below a threshold."""
    return min(math.ceil(threshold / _STEP) * _STEP, 1)


def _for_display(scores: pd.DataFrame) -> pd.DataFrame:
    shown = scores.drop(columns=["class_name", "threshold"])
    shown["pred_label"] = shown.pred_label.map({0: "normal", 1: "anomalous"})
    shown = shown.map(lambda value: "" if pd.isna(value) else f"{value:.3f}" if isinstance(value, float) else value)
    shown.insert(0, "#", range(1, len(shown) + 1))
    return shown.rename(columns={"image_path": "image", "pred_label": "label", "p_value": "p-value"}).rename(
        columns=_words
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(name: str) -> str:
    text = Path(name).name
    return text if len(text) <= 24 else f"{text[:11]}…{text[-12:]}"
