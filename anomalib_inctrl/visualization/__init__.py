# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
"""Results of a run for people: anomalib's images, explanation figures, and a table of scores."""

from anomalib_inctrl.visualization.explanation import explanation_figure
from anomalib_inctrl.visualization.heat_map import HeatMap, heat_overlay
from anomalib_inctrl.visualization.scores import ScoreTable
from anomalib_inctrl.visualization.visualizer import ExplanationVisualizer

__all__ = ["ExplanationVisualizer", "HeatMap", "ScoreTable", "explanation_figure", "heat_overlay"]
