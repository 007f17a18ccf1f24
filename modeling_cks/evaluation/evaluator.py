# SPDX-License-Identifier: Apache-2.0
"""Any ranker in, flat figures and per-sample records out: one evaluation for all models."""

from __future__ import annotations

import gzip
import json
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm.auto import tqdm

from .metrics import emotion_accuracy, ranking_metrics, ranks

logger = logging.getLogger(__name__)


@dataclass
class RankerOutput:
    """What a ranker says about B rows.

    Attributes:
        scores: B arrays (N_i,), one score per candidate in the order of `row["candidates"]`,
            higher is better.
        emotion_given_answer: (B, C) scores of the emotions given the dialogue and the right
            sticker (MOD's task 3), or None for a ranker without an emotion head.
        emotion_given_top: (B, C), the same given the ranker's own top sticker, or None.
        utterance_weights: B arrays (T_i,), how emotional each utterance of the row is to the
            present turn, zero where it was not read, or None for a ranker that does not say.
    """

    scores: list[np.ndarray]
    emotion_given_answer: np.ndarray | None = None
    emotion_given_top: np.ndarray | None = None
    utterance_weights: list[np.ndarray] | None = None


class Ranker(Protocol):
    """Whatever ranks stickers: CKS, a baseline, a yardstick."""

    name: str

    def rank(self, rows: list[dict]) -> RankerOutput:
        """Score the candidates of each row (columns as in the prepared data)."""
        ...


@dataclass
class EvaluationResult:
    """Figures of one evaluation and the records they were computed from.

    Attributes:
        metrics: R@1 R@3 R@5 MRR MAP@1 MAP@3 MAP@5 in percent; Acc and Acc_top in percent, there
            only where the ranker names emotions and a sample is labelled; `samples`,
            `emotion_samples` (those with a label) and `blank_samples` (rows without an answer,
            which no figure counts).
        samples: one record per row in order, the blank ones included, with rank null.
    """

    metrics: dict[str, float]
    samples: list[dict]


def evaluate_ranker(
    ranker: Ranker, rows: Sequence[dict], *, batch_size: int = 32, progress: bool = True
) -> EvaluationResult:
    """Rank the candidates of every answered row and compute the figures of the paper's section 5.

    Args:
        ranker: what is judged.
        rows: rows of the prepared data (a list, or a `datasets.Dataset`) with their candidates.
        batch_size: rows handed to the ranker at a time.
        progress: show a progress bar.

    Raises:
        ValueError: there is no row with an answer, a row has no candidates or its right sticker
            is not exactly once among them, or the ranker's output does not fit its rows or
            holds NaN.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    samples: list[dict] = []
    with tqdm(total=len(rows), desc=ranker.name, unit="row", disable=not progress) as bar:
        for start in range(0, len(rows), batch_size):
            batch = [rows[i] for i in range(start, min(start + batch_size, len(rows)))]
            samples += _judge(ranker, batch)
            bar.update(len(batch))
    return EvaluationResult(metrics=_summary(samples), samples=samples)


def write_samples(path: str | os.PathLike, samples: Iterable[dict]) -> None:
    """Write per-sample records as JSON lines, beside and then renamed; compressed for `.gz`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples).encode()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Without the time of writing the same records give the same file.
        beside.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _judge(ranker: Ranker, rows: list[dict]) -> list[dict]:
    """Give the records of one batch; the ranker sees the answered rows only."""
    targets = [_target(row) for row in rows]
    asked = [row for row, target in zip(rows, targets, strict=True) if target is not None]
    judged = iter(_judge_answered(ranker, asked, [t for t in targets if t is not None]))
    return [
        {**_identity(row), **(_BLANK if target is None else next(judged))}
        for row, target in zip(rows, targets, strict=True)
    ]


_BLANK = {
    "rank": None,
    "predicted_sticker_id": None,
    "emotion_given_answer": None,
    "emotion_given_top": None,
}


def _judge_answered(ranker: Ranker, rows: list[dict], targets: list[int]) -> list[dict]:
    if not rows:
        return []
    output = ranker.rank(rows)
    if len(output.scores) != len(rows):
        raise ValueError(f"{ranker.name} scored {len(output.scores)} rows of {len(rows)}")
    given_answer = _emotions(ranker, "emotion_given_answer", output.emotion_given_answer, rows)
    given_top = _emotions(ranker, "emotion_given_top", output.emotion_given_top, rows)
    records = []
    for i, (row, target) in enumerate(zip(rows, targets, strict=True)):
        scores = np.asarray(output.scores[i], dtype=np.float64)
        if scores.shape != (len(row["candidates"]),):
            raise ValueError(
                f"{_where(row)}: {ranker.name} gave scores of shape {scores.shape} for "
                f"{len(row['candidates'])} candidates"
            )
        if np.isnan(scores).any():
            raise ValueError(f"{_where(row)}: {ranker.name} gave a score that is NaN")
        records.append(
            {
                "rank": int(ranks(scores[None], [target])[0]),
                # argmax takes the first of equals: the same tie rule as `ranks`.
                "predicted_sticker_id": row["candidates"][int(scores.argmax())],
                "emotion_given_answer": given_answer[i],
                "emotion_given_top": given_top[i],
            }
        )
    return records


def _target(row: dict) -> int | None:
    """Give the position of the right sticker among the candidates, None for a blank answer."""
    answer, candidates = row["sticker_id"], row["candidates"]
    # The id "000" is a sticker like any other, so blank is None or the empty text, not "falsy".
    if answer is None or answer == "":
        return None
    if not candidates:
        raise ValueError(f"{_where(row)}: the row has no candidates to rank")
    times = list(candidates).count(answer)
    if times != 1:
        raise ValueError(
            f"{_where(row)}: the right sticker {answer} must be among the candidates once, "
            f"it is there {times} times"
        )
    return list(candidates).index(answer)


def _emotions(
    ranker: Ranker, field: str, scores: np.ndarray | None, rows: list[dict]
) -> list[int | None]:
    if scores is None:
        return [None] * len(rows)
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(scores) != len(rows):
        raise ValueError(f"{ranker.name} gave {field} of shape {scores.shape} for {len(rows)} rows")
    if np.isnan(scores).any():
        raise ValueError(f"{ranker.name} gave {field} with NaN")
    return [int(i) for i in scores.argmax(axis=1)]


def _identity(row: dict) -> dict:
    emotion = row.get("emotion")
    return {
        "dialogue_id": row["dialogue_id"],
        "turn": int(row["turn"]),
        "sticker_id": row["sticker_id"] or None,
        "emotion": -1 if emotion is None else int(emotion),
        "candidates": len(row["candidates"]),
    }


def _where(row: dict) -> str:
    return f"dialogue {row['dialogue_id']}, turn {row['turn']}"


def _summary(samples: list[dict]) -> dict[str, float]:
    answered = [sample for sample in samples if sample["rank"] is not None]
    blank = len(samples) - len(answered)
    if not answered:
        raise ValueError(f"nothing to evaluate: {len(samples)} rows, none with an answer")
    if blank:
        logger.warning("%d of %d rows have no answer and are in no figure", blank, len(samples))
    metrics = ranking_metrics([sample["rank"] for sample in answered])
    gold = [sample["emotion"] for sample in answered]
    for key, field in (("Acc", "emotion_given_answer"), ("Acc_top", "emotion_given_top")):
        predicted = [sample[field] for sample in answered]
        if None in predicted:
            continue
        accuracy = emotion_accuracy(predicted, gold)
        if accuracy is not None:
            metrics[key] = accuracy
    return {
        **metrics,
        "samples": len(answered),
        "emotion_samples": sum(emotion != -1 for emotion in gold),
        "blank_samples": blank,
    }
