# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app's page, built with Gradio."""

from __future__ import annotations

import functools
import hashlib
import html
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

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
_WIDTHS = ["30%", "20%", "50%"]
# Components that show results and cannot be edited.
_PLAIN: dict[str, Any] = {"interactive": False, "buttons": []}
_THUMBNAILS = {"object_fit": "contain", "allow_preview": False, **_PLAIN}
_Handler = TypeVar("_Handler", bound=Callable[..., Any])

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


def _reports_errors(handler: _Handler) -> _Handler:
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

    return reporting  # type: ignore[return-value]


@_reports_errors
def show_prompts(files: list[str] | None) -> Any:
    """Check the normal references and show them."""
    images = [_thumbnail(path) for path in check_prompts(files)] if files else []
    return gr.Gallery(value=images, visible=bool(images), height=120 if len(images) <= 4 else 200)


@_reports_errors
def show_prediction(predictions: list[Prediction], chosen: int) -> tuple[Any, ...]:
    """Heat map and components of the chosen prediction."""
    if not predictions:
        return None, []
    prediction = predictions[chosen]
    rows = [[_words(name), f"{value:.3f}", _COMPONENTS.get(name, "")] for name, value in prediction.components.items()]
    return prediction.heat_map(_LARGE), rows


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
        files: list[str], queries: list[str], class_name: str, model: str, weights: str, before: object
    ) -> tuple[Any, ...]:
        """Predict; the threshold starts at that of the references whenever one of the settings changes."""
        result = service.predict(files, queries, class_name, model, weights)
        settings, start = [files, class_name, model, weights], result.predictions[0].threshold
        new = {} if start is None or settings == before else {"value": min(math.ceil(start / _STEP) * _STEP, 1)}
        return (
            result.predictions,
            [prediction.heat_map(_THUMBNAIL) for prediction in result.predictions],
            result.left_out,
            files,
            0,
            gr.Textbox(value="\n".join(result.left_out), visible=bool(result.left_out)),
            gr.Slider(visible=start is not None, **new),
            settings,
        )

    @_reports_errors
    def show_labels(
        predictions: list[Prediction],
        heat_maps: list[Image.Image],
        left_out: list[str],
        prompts: list[str],
        chosen: int,
        slider: float,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        """What depends on the threshold: counts, labels, the table with its file, and the explanation figure."""
        if not predictions:
            return "", gr.Gallery(), "", pd.DataFrame(), gr.DownloadButton(interactive=False), None
        threshold = None if predictions[0].threshold is None else slider
        prediction, scores = predictions[chosen], score_table(predictions, threshold)
        # The session's name comes from the browser and must not become part of a path.
        session = hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:16]
        path = write_text_atomic(folder / session / "scores.csv", to_csv(scores))
        tiles = [
            (_framed(image, label_of(prediction, threshold)), _caption(prediction, threshold))
            for image, prediction in zip(heat_maps, predictions, strict=True)
        ]
        label = None if threshold is None else prediction.score > threshold
        return (
            f"### {summary(predictions, len(left_out), threshold)}",
            gr.Gallery(value=tiles, selected_index=chosen),
            _label_text(prediction, threshold),
            _for_display(scores),
            gr.DownloadButton(value=path, interactive=True),
            replace(prediction, threshold=threshold, label=label).explain(prompts),
        )

    note = _NOTE if service.pretrained == DEMO_PRETRAINED else f" Backbone: {service.backbone}, {service.pretrained}."
    with gr.Blocks(title="anomalib-inctrl", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_HEADING + note)
        predictions, heat_maps, unread, prompts = (gr.State([]) for _ in range(4))
        chosen, predicted_with = gr.State(0), gr.State(None)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                files, class_name, queries, model, weights, run, example = _lay_out_form(service)
            with gr.Column(scale=5, min_width=480):
                counts = gr.Markdown(elem_id="counts")
                left_out = gr.Textbox(label="Unreadable, left out", max_lines=8, interactive=False, visible=False)
                title = "Heat maps, most abnormal first"
                gallery = gr.Gallery(label=title, elem_id="heat-maps", columns=6, height=290, **_THUMBNAILS)
                with gr.Row(equal_height=False):
                    with gr.Column(scale=3, min_width=300):
                        large = gr.Image(label="Heat map", height=380, interactive=False, buttons=["fullscreen"])
                    with gr.Column(scale=2, min_width=240):
                        label = gr.Markdown(elem_id="pred-label")
                        head = ["component", "value", "meaning"]
                        components = gr.Dataframe(
                            headers=head, label="Components of the score", wrap=True, column_widths=_WIDTHS, **_PLAIN
                        )
                threshold = gr.Slider(0, 1, step=_STEP, label="Threshold", info=_THRESHOLD, visible=False)
                table = gr.Dataframe(label="All images", max_height=320, **_PLAIN)
                download = gr.DownloadButton("Download CSV", interactive=False, size="md")
                with gr.Accordion("Everything in one figure", open=False):
                    buttons = ["download", "fullscreen"]
                    figure = gr.Image(label="Explanation figure", format="png", interactive=False, buttons=buttons)
        details = (show_prediction, [predictions, chosen], [large, components])
        labels = (
            show_labels,
            [predictions, heat_maps, unread, prompts, chosen, threshold],
            [counts, gallery, label, table, download, figure],
        )
        filled = example.click(lambda: render_example(folder), None, [files, class_name, queries], api_name="example")
        request = (
            predict,
            [files, queries, class_name, model, weights, predicted_with],
            [predictions, heat_maps, unread, prompts, chosen, left_out, threshold, predicted_with],
        )
        one = {"concurrency_limit": 1, "concurrency_id": "predict"}
        for asked in (gr.on([run.click, class_name.submit], *request, **one), filled.success(*request, **one)):
            asked.success(*details).success(*labels, show_progress="hidden")
        for component, choose in ((gallery, choose_from_gallery), (table, choose_from_table)):
            picked = component.select(choose, None, chosen, show_progress="hidden")
            picked.success(*details, show_progress="hidden").success(*labels, show_progress="hidden")
        threshold.change(*labels, show_progress="hidden", trigger_mode="always_last")
    return page


def _lay_out_form(service: PredictionService) -> tuple[Any, ...]:
    files = _upload(f"1. Normal references (1 to {MOST_PROMPTS})")
    gallery = gr.Gallery(
        label="References", elem_id="prompt-gallery", columns=4, height=120, visible=False, **_THUMBNAILS
    )
    info = "In English: it goes into the text prompts."
    class_name = gr.Textbox(label="2. What they show", placeholder="metal nut", info=info, max_length=MOST_LETTERS)
    queries = _upload(f"3. Images to inspect (1 to {MOST_QUERIES})")
    first = service.models[0]
    with gr.Row():
        model = gr.Dropdown(service.models, value=first, label="Model", min_width=130)
        weights = gr.Dropdown(service.weights_of(first), value=UNTRAINED, label="Heads", min_width=130)
    with gr.Row():
        run = gr.Button("Predict", variant="primary", scale=2)
        example = gr.Button("Example", min_width=100)
    files.change(show_prompts, files, gallery, show_progress="hidden")
    model.change(lambda name: gr.Dropdown(service.weights_of(name), value=UNTRAINED), model, weights)
    return files, class_name, queries, model, weights, run, example


def choose_from_table(event: gr.SelectData) -> int:
    """The prediction of a row; rows may be sorted in the browser."""
    return int(event.row_value[0]) - 1


def choose_from_gallery(event: gr.SelectData) -> int:
    """The prediction of a heat map."""
    return int(event.index)


def _upload(label: str) -> gr.File:
    return gr.File(label=label, file_count="multiple", file_types=sorted(IMAGE_SUFFIXES), height=140)


def _thumbnail(path: Path) -> Image.Image:
    image: Image.Image = to_pil_image(read_image(path))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return image


def _framed(image: Image.Image, label: str) -> Image.Image:
    """An image in a frame of its label's colour; without a label as it is."""
    return ImageOps.expand(image, 10, _FRAMES[label]) if label else image


def _caption(prediction: Prediction, threshold: float | None) -> str:
    return " ".join(filter(None, [f"{prediction.score:.3f}", label_of(prediction, threshold), _short(prediction.name)]))


def _label_text(prediction: Prediction, threshold: float | None) -> str:
    # Numbers only: names come from the browser, and this is Markdown.
    score, label = prediction.score, label_of(prediction, threshold)
    if threshold is None:
        return f"## score {score:.3f}\nno threshold"
    sign = ">" if label == "anomalous" else "≤"
    return f"## {label}\nscore **{score:.3f}** {sign} threshold {threshold:.3f}, p-value {prediction.p_value:.2f}"


def _for_display(scores: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"#": range(1, len(scores) + 1), "image": scores.image_path})
    shown["score"] = scores.score.map("{:.3f}".format)
    shown["label"] = scores.pred_label.map({0: "normal", 1: "anomalous"}).fillna("")
    shown["p-value"] = [f"{value:.2f}" if pd.notna(value) else "" for value in scores.p_value]
    for name in scores.columns.intersection(list(_COMPONENTS)):
        shown[_words(name)] = scores[name].map("{:.3f}".format)
    return shown


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(name: str) -> str:
    text = Path(name).name
    return text if len(text) <= 24 else f"{text[:11]}…{text[-12:]}"
