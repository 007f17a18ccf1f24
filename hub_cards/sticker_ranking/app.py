# SPDX-License-Identifier: Apache-2.0
"""The page of the metric's Space: paste scores and references, read the figures."""

import json
from pathlib import Path

import evaluate
import gradio as gr

HERE = Path(__file__).parent
metric = evaluate.load(str(HERE / "sticker_ranking.py"))


def compute(predictions: str, references: str) -> dict:
    """Compute the figures of two JSON lists; bad input is shown and not raised."""
    try:
        return metric.compute(
            predictions=json.loads(predictions), references=json.loads(references)
        )
    except (TypeError, ValueError) as error:
        raise gr.Error(str(error)) from None


page = gr.Interface(
    compute,
    [
        gr.Textbox("[[0.9, 0.1], [0.2, 0.2, 0.7]]", label="predictions: scores of each sample"),
        gr.Textbox("[0, 1]", label="references: position of the right candidate of each sample"),
    ],
    gr.JSON(label="percent"),
    title="sticker_ranking",
    article=(HERE / "README.md").read_text(encoding="utf-8").split("---", 2)[2],
    flagging_mode="never",
)

if __name__ == "__main__":
    page.launch()
