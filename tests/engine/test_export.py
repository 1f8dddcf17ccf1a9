# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""A model scores the same in other runtimes, in double precision and on a GPU.

Exports hold prompts and need no other file.
"""

import copy
import logging
import shutil

import numpy as np
import onnx
import pytest
import torch
from anomalib.cli.cli import AnomalibCLI
from anomalib.deploy import OpenVINOInferencer, TorchInferencer
from anomalib.pre_processing import PreProcessor
from torch.testing import assert_close

from anomalib_inctrl import InCTRLv2
from anomalib_inctrl.errors import PromptError
from anomalib_inctrl.io.images import read_image
from anomalib_inctrl.models.components.export import PROMPT_INPUTS

ort = pytest.importorskip("onnxruntime")
ov = pytest.importorskip("openvino")

# OpenVINO computes the weights of a resize in single precision: a value may fall on the other side of two 8-bit levels,
# which normalised scores of random heads amplify.
CLOSE_AFTER_RESIZE = {"atol": 2e-3, "rtol": 0}
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


@pytest.fixture(scope="module")
def model(kind, exports):
    return kind.load_from_checkpoint(exports.checkpoint)


def eager(model, images, *names):
    with torch.no_grad():
        return model(images, *names)


def load_torch(path):
    return torch.load(path, weights_only=False)["model"].eval()


def run_onnx(path, images, **prompts):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    values = session.run(None, {"input": images.numpy(), **prompts})
    return {output.name: torch.from_numpy(value) for output, value in zip(session.get_outputs(), values, strict=True)}


def run_openvino(path, images, **prompts):
    compiled = ov.Core().compile_model(str(path), "CPU", EXACT)
    results = compiled({"input": images.numpy(), **prompts})
    return {output.any_name: torch.from_numpy(np.array(results[output])) for output in compiled.outputs}


def assert_scores_close(found, expected, after_resize=False):
    close = CLOSE_AFTER_RESIZE if after_resize else {"atol": 1e-4, "rtol": 0}
    assert_close(found["pred_score"].flatten(), expected.pred_score, **close)
    assert_close(found["anomaly_map"], expected.anomaly_map, **close)


def images_of(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


# The backbone's own size, and others: the graph takes images of any.
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 130, 117)], ids=str)
@pytest.mark.parametrize(("run", "name"), [(run_onnx, "onnx"), (run_openvino, "openvino")])
def test_runtimes_score_as_the_model(model, exports, run, name, shape):
    images = images_of(*shape)
    expected, found = eager(model, images), run(getattr(exports, name), images)
    assert found.keys() == {"pred_score", "pred_label", "anomaly_map", "pred_mask"}
    assert_scores_close(found, expected, after_resize=run is run_openvino and shape[-1] != 64)
    assert torch.equal(found["pred_label"].bool(), expected.pred_label)
    assert (found["pred_mask"].bool() != expected.pred_mask).float().mean() < 1e-3


def test_anomalibs_inferencers_read_files_that_were_moved(kind, model, exports, washers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # OpenVINO's inferencer leaves a cache in the working directory
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    image = next(washers.glob("*.png"))
    expected = eager(model, read_image(image).unsqueeze(0))
    with torch.no_grad():
        found = TorchInferencer(shutil.copy(exports.torch, tmp_path), device="cpu").predict(image)
    assert torch.equal(found.pred_score, expected.pred_score)
    assert torch.equal(found.anomaly_map.view_as(expected.anomaly_map), expected.anomaly_map)
    if kind is InCTRLv2:
        shutil.copy(exports.openvino.with_suffix(".bin"), tmp_path)
        inferencer = OpenVINOInferencer(shutil.copy(exports.openvino, tmp_path), "CPU", config=EXACT)
        found = inferencer.predict(image)
        assert inferencer.predict(read_image(image)).pred_score == found.pred_score
        arrays = {name: torch.from_numpy(getattr(found, name)) for name in ("pred_score", "anomaly_map")}
        arrays["anomaly_map"] = arrays["anomaly_map"].view_as(expected.anomaly_map)
        assert_scores_close(arrays, expected, after_resize=True)


def test_the_graph_is_one_file_without_the_text_encoder(model, exports):
    assert next(entry.version for entry in onnx.load(str(exports.onnx)).opset_import) >= 18
    assert [path.name for path in exports.onnx.parent.iterdir()] == ["model.onnx"]
    visual = sum(value.numel() * 4 for value in model.model.backbone.network.visual.parameters())
    everything = sum(value.numel() * 4 for value in model.model.parameters())
    assert exports.onnx.stat().st_size < visual + 1e6 < everything


def test_torch_export_takes_other_prompts(exports, model):
    loaded, fresh = load_torch(exports.torch), copy.deepcopy(model)
    images, prompts = images_of(2, 3, 120, 150), images_of(3, 3, 100, 90)
    assert torch.equal(eager(loaded, images).anomaly_map, eager(model, images).anomaly_map)
    for changed in (loaded, fresh):
        changed.model.set_prompts(changed.pre_processor(prompts), "gear")
        changed.model.set_prompts(changed.pre_processor(prompts[:1]), "washer")
    with pytest.raises(PromptError, match=r"several classes, \['washer', 'gear'\]"):
        loaded(images)
    for name in ("gear", "washer"):
        assert torch.equal(eager(loaded, images, name).pred_score, eager(fresh, images, name).pred_score)


def test_prompts_as_input_of_the_graph(kind, exports, tmp_path, monkeypatch):
    """One graph, by the command line, takes prompts of any number and class."""
    if kind is not InCTRLv2:
        pytest.skip("one model is enough: the graph's inputs are the same for both")
    monkeypatch.chdir(tmp_path)
    arguments = "export --model InCTRLv2 --export_type onnx --model_file_name open --export_root . --ckpt_path"
    choice = "--onnx_kwargs.prompts_as_input true --onnx_kwargs.class_name washer --onnx_kwargs.optimize false"
    AnomalibCLI(args=[*arguments.split(), str(exports.checkpoint), *choice.split()])
    path = tmp_path / "weights/onnx/open.onnx"
    assert {node.name for node in onnx.load(str(path)).graph.input} == {"input", *PROMPT_INPUTS}

    model = InCTRLv2.load_from_checkpoint(exports.checkpoint, prompt_shifts=2)
    model.model.set_prompts(model.pre_processor(images_of(1, 3, 100, 90)), "gear")
    model.save_prompt_inputs(tmp_path / "gear.npz", "gear")
    for name, file, k_shot in (("washer", path.with_name("open.prompts.npz"), 2), ("gear", tmp_path / "gear.npz", 1)):
        with np.load(file, allow_pickle=False) as arrays:
            prompts = dict(arrays)
        assert len(prompts["prompt_embeddings"]) == k_shot
        assert len(prompts["prompt_patches"]) == k_shot * (4 if name == "gear" else 1)
        for images in (images_of(1, 3, 64, 64), images_of(3, 3, 130, 117)):
            expected, resized = eager(model, images, name), images.shape[-1] != 64
            assert_scores_close(run_onnx(path, images, **prompts), expected)
            assert_scores_close(run_openvino(path, images, **prompts), expected, after_resize=resized)


@pytest.mark.parametrize("export_type", ["torch", "onnx"])
def test_export_without_prompts_is_refused(make_model, make_engine, export_type, tmp_path):
    with pytest.raises(PromptError, match=r"--model\.prompts FOLDER.*--ckpt_path"):
        make_engine().export(make_model(), export_type, export_root=tmp_path)
    assert not list(tmp_path.rglob("model.*"))


def test_weights_and_a_folder_of_prompts_go_into_one_file(make_model, make_engine, trained, prompts, tmp_path, caplog):
    named = prompts | {"class_name": "steel washer"}
    with caplog.at_level(logging.WARNING, "anomalib_inctrl"):
        path = make_engine().export(make_model(weights=trained, **named), "torch", export_root=tmp_path)
    assert "never been validated" in caplog.text
    loaded = load_torch(path)
    assert loaded.model.bank.class_names == ["steel washer"]
    assert loaded.model.bank.select().k_shot == 6
    assert loaded.model.heads_trained
    result = eager(loaded, images_of(1, 3, 64, 64))
    assert result.pred_score.isfinite().all()
    assert result.pred_label is result.pred_mask is None


def test_a_timm_backbone_with_a_fitted_fusion_and_metric_and_nothing_that_resizes_exports_to_onnx(tmp_path):
    options = {"image_size": 64, "patch_metric": "learned", "pre_processor": PreProcessor()}
    model = InCTRLv2(backbone="timm/test_vit", pretrained=None, **options).eval()
    torch.nn.init.normal_(model.model.patch_metric.weight, std=0.2)
    images = images_of(4, 3, 64, 64)
    model.model.heads_trained = True
    model.model.fusion.fit(torch.rand(20, len(model.model.fusion.names)), torch.arange(20) % 2)
    model.model.set_prompts(model.pre_processor(images[:2]), "washer")
    found = run_onnx(model.to_onnx(tmp_path), images)
    assert found.keys() == {"pred_score", "anomaly_map"}  # no threshold is known
    assert_scores_close(found, eager(model, images))


@pytest.mark.parametrize("other", ["double", "cuda"])
def test_other_precisions_and_devices_score_the_same(make_model, trained, other):
    if other == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model, images = make_model(weights=trained).eval(), images_of(3, 3, 64, 64)
    _ = model.model  # it is created when first needed
    moved, of_other = getattr(copy.deepcopy(model), other)(), getattr(images, other)()
    for one, pixels in ((model, images), (moved, of_other)):
        one.model.set_prompts(pixels[:2], "gear")
    expected, found = eager(model, images), eager(moved, of_other)
    back = eager(moved.cpu().float(), images)
    tolerance = {"atol": 1e-3 if other == "cuda" else 1e-5, "rtol": 0}
    for name in ("pred_score", "anomaly_map"):
        value = getattr(expected, name)
        assert getattr(found, name).dtype == of_other.dtype
        assert_close(getattr(found, name).cpu().float(), value, **tolerance)
        assert_close(getattr(back, name), value, **tolerance)
