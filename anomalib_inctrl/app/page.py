# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""The app's page, built with Gradio."""

from __future__ import annotations

import functools
import hashlib
import html
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import gradio as gr
import pandas as pd
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from anomalib_inctrl.app.service import PredictionService, score_table, to_csv
from anomalib_inctrl.backbones.packaged import DEMO_PRETRAINED
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
_COMPONENTS = {
    "text_score": "similarity to the text prompts for abnormal",
    "patch_score": "the patch least similar to the normal references",
    "image_score": "the whole image compared with the references",
    "head_score": "InCTRL's head over the residual map",
}
_INPUT_ERRORS = (BackboneError, CheckpointError, ImageFileError, ImageDataError, PretrainedWeightsError, PromptError)
_Handler = TypeVar("_Handler", bound=Callable[..., Any])

# Fonts of the browser's machine: the page makes no request to other servers.
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
CSS = """.gradio-container {max-width: 1400px !important; margin: auto}
#pred-label h2 {margin: 0}
#prompt-gallery .grid-container {grid-template-columns: repeat(4, minmax(0, 1fr)) !important}"""
_HEADING = """# Few-shot anomaly detection
Drop normal references of an object, name it, and drop the images to inspect. Nothing leaves the machine that runs
this app."""

# Takes a folder for its files; gives paths of normal references, what they show, and paths of images to inspect.
ExampleSource = Callable[[Path], tuple[list[str], str, list[str]]]


def _reports_errors(handler: _Handler) -> _Handler:
    """Show what is wrong with the input and leave the page as it is; other errors go to the log."""

    @functools.wraps(handler)
    def reporting(*args: Any, **options: Any) -> Any:
        try:
            return handler(*args, **options)
        except _INPUT_ERRORS as error:
            # No gr.Error: it would write "Error" over every component that shows results.
            gr.Warning(html.escape(str(error)), title="Check the input")
            return gr.skip()
        except Exception as error:
            logger.exception("%s failed", handler.__name__)
            msg = f"The app failed ({type(error).__name__}); see its log."
            raise gr.Error(msg, print_exception=False) from error

    return reporting  # type: ignore[return-value]


class Handlers:
    """Functions that the page's components call; see :func:`build_page` for the arguments."""

    def __init__(self, service: PredictionService, folder: Path, example: ExampleSource) -> None:
        self.service = service
        self.folder = folder
        self.example = example

    @_reports_errors
    def show_prompts(self, files: list[str] | None) -> Any:
        """Check the normal references and show them."""
        if not files:
            return gr.Gallery(value=[], visible=False)
        images = [_thumbnail(path) for path in self.service.check_prompts(files)]
        return gr.Gallery(value=images, visible=True, height=120 if len(images) <= 4 else 200)

    @_reports_errors
    def predict(
        self,
        prompts: list[str] | None,
        queries: list[str] | None,
        class_name: str,
        model: str,
        weights: str,
        predicted_with: object,
    ) -> tuple[Any, ...]:
        """Predict; the threshold starts at the highest score of the references whenever one of the settings changes."""
        result = self.service.predict(prompts, queries, class_name, model, weights)
        settings = [prompts, class_name, model, weights]
        start = 0.5 if result.highest_normal is None else min(math.ceil(result.highest_normal * 1000) / 1000, 1)
        threshold = gr.Slider() if settings == predicted_with else gr.Slider(value=start)
        heat_maps = [
            (prediction.heat_map(_THUMBNAIL), f"{prediction.score:.3f}  {_short(prediction.name)}")
            for prediction in result.predictions
        ]
        count = len(result.left_out)
        left_out = gr.Textbox(value="\n".join(result.left_out), visible=count > 0, lines=max(count, 1))
        shown = gr.Gallery(value=heat_maps, selected_index=0)
        return result.predictions, list(prompts or []), 0, shown, left_out, threshold, settings

    @_reports_errors
    def show_prediction(self, predictions: list[Prediction], chosen: int, prompts: list[str]) -> tuple[Any, ...]:
        """Heat map, components and explanation figure of the chosen prediction."""
        if not predictions:
            return None, [], None
        prediction = predictions[chosen]
        rows = [
            [_words(name), f"{value:.3f}", _COMPONENTS.get(name, "")] for name, value in prediction.components.items()
        ]
        return prediction.heat_map(_LARGE), rows, prediction.explain(prompts)

    @_reports_errors
    def show_labels(
        self, predictions: list[Prediction], chosen: int, threshold: float, request: gr.Request
    ) -> tuple[Any, ...]:
        """Label of the chosen prediction, table of all, and its file."""
        if not predictions:
            return "", pd.DataFrame(), gr.DownloadButton(interactive=False)
        scores = score_table(predictions, threshold)
        # The session's name comes from the browser and must not become part of a path.
        session = hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:16]
        path = write_text_atomic(self.folder / session / "scores.csv", to_csv(scores))
        shown = (_label(predictions[chosen], threshold), _for_display(scores))
        return *shown, gr.DownloadButton(value=path, interactive=True)

    def offer_weights(self, model: str) -> Any:
        """The weights on offer for a model."""
        names = self.service.weights_of(model) if model in self.service.models else []
        return gr.Dropdown(choices=names, value=names[0] if names else None)

    @_reports_errors
    def fill_in(self) -> tuple[Any, ...]:
        """Create the example: normal references, what they show, images to inspect."""
        return self.example(self.folder)


def choose_from_table(event: gr.SelectData) -> int:
    """The prediction of a row; rows may be sorted in the browser."""
    return int(event.row_value[0]) - 1


def choose_from_gallery(event: gr.SelectData) -> int:
    """The prediction of a heat map."""
    return int(event.index)


def build_page(service: PredictionService, folder: Path, example: ExampleSource) -> gr.Blocks:
    """Lay out the page.

    Args:
        service: Makes the predictions.
        folder: Folder for tables to download and the example; to be removed with the app.
        example: Creates the example images.

    Returns:
        The page, to be launched.
    """
    handlers = Handlers(service, folder, example)
    with gr.Blocks(title="anomalib-inctrl", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_HEADING + _note_on_backbone(service))
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                form = _lay_out_form(handlers)
            with gr.Column(scale=5, min_width=480):
                _lay_out_results(handlers, form)
    return page


class _Form(NamedTuple):
    prompts: gr.File
    queries: gr.File
    class_name: gr.Textbox
    model: gr.Dropdown
    weights: gr.Dropdown
    run: gr.Button


def _lay_out_form(handlers: Handlers) -> _Form:
    service = handlers.service
    limits, first = service.limits, service.models[0]
    prompts = _upload(f"1. Normal references (1 to {limits.prompts})", "prompts")
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
    queries = _upload(f"3. Images to inspect (1 to {limits.queries})", "queries")
    offered = service.weights_of(first)
    with gr.Row():
        model = gr.Dropdown(service.models, value=first, label="Model", elem_id="model", min_width=130)
        weights = gr.Dropdown(offered, value=offered[0], label="Heads", elem_id="weights", min_width=130)
    with gr.Row():
        run = gr.Button("Predict", variant="primary", elem_id="predict", scale=2)
        example = gr.Button("Example", elem_id="example", min_width=100)
    prompts.change(handlers.show_prompts, prompts, gallery, show_progress="hidden")
    model.change(handlers.offer_weights, model, weights, show_progress="hidden")
    example.click(handlers.fill_in, None, [prompts, class_name, queries])
    return _Form(prompts, queries, class_name, model, weights, run)


def _lay_out_results(handlers: Handlers, form: _Form) -> None:
    predictions, prompts, chosen, predicted_with = gr.State([]), gr.State([]), gr.State(0), gr.State(None)
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
            label = gr.Markdown(elem_id="pred-label")
            components = gr.Dataframe(
                headers=["component", "value", "meaning"],
                datatype=["str", "str", "str"],
                label="Components of the score",
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
        info="A score above it counts as anomalous. It starts at the highest score of your normal references, each "
        "compared with the others; set it between images whose label you know.",
        elem_id="threshold",
    )
    table = gr.Dataframe(
        headers=["#", "image", "score", "label"],
        label="All images",
        elem_id="table",
        interactive=False,
        max_height=320,
        buttons=[],
    )
    download = gr.DownloadButton("Download CSV", elem_id="download", interactive=False, size="md")
    with gr.Accordion("Everything in one figure", open=False):
        figure = gr.Image(
            label="Explanation figure",
            elem_id="explanation",
            interactive=False,
            format="png",
            buttons=["download", "fullscreen"],
        )

    details = {
        "fn": handlers.show_prediction,
        "inputs": [predictions, chosen, prompts],
        "outputs": [heat_map, components, figure],
    }
    labels = {
        "fn": handlers.show_labels,
        "inputs": [predictions, chosen, threshold],
        "outputs": [label, table, download],
        "show_progress": "hidden",
    }
    gr.on(
        [form.run.click, form.class_name.submit],
        handlers.predict,
        [form.prompts, form.queries, form.class_name, form.model, form.weights, predicted_with],
        [predictions, prompts, chosen, gallery, left_out, threshold, predicted_with],
        concurrency_limit=1,
    ).success(**details).success(**labels)
    for component, choose in ((gallery, choose_from_gallery), (table, choose_from_table)):
        component.select(choose, None, chosen, show_progress="hidden").success(
            **details, show_progress="hidden"
        ).success(**labels)
    threshold.change(**labels, trigger_mode="always_last")


def _upload(label: str, elem_id: str) -> gr.File:
    return gr.File(label=label, file_count="multiple", file_types=sorted(IMAGE_SUFFIXES), elem_id=elem_id, height=140)


def _note_on_backbone(service: PredictionService) -> str:
    if service.pretrained != DEMO_PRETRAINED:
        return f" Backbone: {service.backbone}, {service.pretrained}."
    return (
        "\n\n*This uses the package's demonstration encoder, a small CLIP trained on rendered images, which does not "
        "show the accuracy of the models. For real use start the app with an OpenCLIP backbone, see "
        "`anomalib-inctrl app --help`.*"
    )


def _thumbnail(path: Path) -> Image.Image:
    image: Image.Image = to_pil_image(read_image(path))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return image


def _label(prediction: Prediction, threshold: float) -> str:
    # Numbers only: names come from the browser, and this is Markdown.
    word, sign = ("anomalous", ">") if prediction.score > threshold else ("normal", "≤")
    return f"## {word}\nscore **{prediction.score:.3f}** {sign} threshold {threshold:.3f}"


def _for_display(scores: pd.DataFrame) -> pd.DataFrame:
    shown = pd.DataFrame({"#": range(1, len(scores) + 1), "image": scores.image_path})
    shown["score"] = scores.score.map("{:.3f}".format)
    shown["label"] = scores.pred_label.map({0: "normal", 1: "anomalous"})
    for name in scores.columns:
        if name in _COMPONENTS:
            shown[_words(name)] = scores[name].map("{:.3f}".format)
    return shown


def _words(name: str) -> str:
    return name.replace("_", " ")


def _short(name: str, length: int = 24) -> str:
    text = Path(name).name
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-(length // 2) :]}"
