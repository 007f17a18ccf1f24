# SPDX-License-Identifier: Apache-2.0
"""Run an exported CKS with onnxruntime: the processor's tensors in, scores out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

GRAPHS = ("stickers", "dialogue", "rank")
EXPORT_FILE = "onnx.json"


def graph_file(graph: str, int8: bool = False) -> str:
    """Return the name of a graph's file in an exported folder."""
    return f"{graph}.int8.onnx" if int8 else f"{graph}.onnx"


class OnnxCKS:
    """An exported CKS: the graphs' scores are those of [`CKSModel`], traced from it.

    Args:
        folder: what `scripts/export_onnx.py` wrote.
        int8: run the quantised graphs.
        threads: of each operation; onnxruntime's own choice unless given.

    Attributes:
        id2label: the emotions' names by their number.

    Raises:
        ValueError: the folder holds no exported CKS, or none in int8.

    Example:
        ```python
        >>> from transformers import AutoProcessor
        >>> cks = OnnxCKS("path/to/onnx")  # doctest: +SKIP
        >>> processor = AutoProcessor.from_pretrained("path/to/onnx")  # doctest: +SKIP
        >>> answer = cks(**processor(["Oh no!"], stickers=["cry.png", "joy.gif"]))  # doctest: +SKIP
        >>> answer["scores"].shape  # doctest: +SKIP
        (1, 2)

        ```
    """

    def __init__(self, folder: str | os.PathLike, int8: bool = False, threads: int | None = None):
        folder = Path(folder)
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self.id2label = {int(key): name for key, name in config["id2label"].items()}
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"{folder}: holds no exported CKS (config.json: {error})") from None
        missing = [name for name in GRAPHS if not (folder / graph_file(name, int8)).is_file()]
        if missing:
            lost = ", ".join(graph_file(name, int8) for name in missing)
            raise ValueError(f"{folder}: has no {lost}; export the model with export_onnx.py")
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self._sessions = {
            name: onnxruntime.InferenceSession(
                folder / graph_file(name, int8), options, providers=["CPUExecutionProvider"]
            )
            for name in GRAPHS
        }
        self._inputs = {
            name: [each.name for each in session.get_inputs()]
            for name, session in self._sessions.items()
        }

    def __call__(self, **inputs: Any) -> dict[str, np.ndarray]:
        """Encode dialogues and stickers, and score candidates where there are any.

        Args:
            **inputs: what `CKSModel.forward` takes, arrays or CPU tensors; those that the model
                does not read are left alone. `sticker_embeds` take the place of `pixel_values`.

        Returns:
            `sticker_embeds`, `dialogue_embeds`, `utterance_weights` (unless without KEUE); with
            `candidates` also `scores` and those of `contrastive_logits`, `match_logits`,
            `candidate_emotion_logits` that the model has; shapes as in [`CKSOutput`].

        Raises:
            ValueError: an input that the model needs is missing.
        """
        given = {name: value for name, value in inputs.items() if value is not None}
        if "sticker_embeds" not in given:
            given.update(self._run("stickers", given))
        if "history" not in given and "speaker_ids" in given:
            given["history"] = np.full(given["speaker_ids"].shape, -1)
        answer = {"sticker_embeds": np.asarray(given["sticker_embeds"])}
        answer.update(self._run("dialogue", given))
        if "candidates" in given:
            answer.update(self._run("rank", {**given, **answer}))
        return answer

    def encode_stickers(self, pixel_values: Any) -> np.ndarray:
        """Encode stickers (S, 3, n, n) into features (S, D), to keep for many dialogues."""
        return self._run("stickers", {"pixel_values": pixel_values})["sticker_embeds"]

    def _run(self, graph: str, given: dict[str, Any]) -> dict[str, np.ndarray]:
        feed = {}
        for name in self._inputs[graph]:
            if name not in given:
                raise ValueError(f"the exported CKS needs `{name}`")
            feed[name] = np.asarray(given[name])
        session = self._sessions[graph]
        names = [each.name for each in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))
