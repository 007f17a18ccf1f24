# SPDX-License-Identifier: Apache-2.0
"""R@k, MRR and MAP@k of rankings that hold one right candidate each, for `evaluate.load`."""

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
Judges rankings that hold one right candidate each, as in choosing the sticker for a dialogue:
R@k (the right one is among the first k), the mean reciprocal rank cut at rank 10, and MAP@k
(1 / rank, zero beyond k, as the scorer of MOD has it). All in percent.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: for each sample the scores of its candidates, higher is better; samples may have
        different numbers of candidates. Of equal scores the lower position wins.
    references: for each sample the position of the right candidate, from 0 on.
    at: the cut-offs k of R@k and MAP@k.

Returns:
    R@k and MAP@k for each k, and MRR: floats in percent.

Raises:
    ValueError: there is no sample, the two lists differ in length, a score is missing or NaN, or
        a reference is not the position of a candidate.

Example:
    >>> metric = evaluate.load("sticker_ranking")
    >>> metric.compute(predictions=[[0.9, 0.1], [0.2, 0.2, 0.7]], references=[0, 1], at=[1, 3])
    {'R@1': 50.0, 'R@3': 100.0, 'MRR': 66.66666666666666, 'MAP@1': 50.0, 'MAP@3': 66.66666666666666}
"""

_CITATION = """\
@inproceedings{chen2024deconfounded,
  title     = {Deconfounded Emotion Guidance Sticker Selection with Causal Inference},
  author    = {Chen, Jiali and others},
  booktitle = {Proceedings of the 32nd ACM International Conference on Multimedia (MM '24)},
  year      = {2024}
}
"""

_MRR_CUT = 10


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class StickerRanking(evaluate.Metric):
    """Score lists of candidates by the place of the right one."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Take several samples, each looked at first: what is bad leaves no half batch behind."""
        if predictions is None or references is None:
            raise ValueError("give both `predictions` and `references`")
        if len(predictions) != len(references):
            raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
        if not len(predictions):
            raise ValueError("there is no sample")
        for sample, (scores, reference) in enumerate(zip(predictions, references, strict=True)):
            try:
                _rank(scores, reference)
            except (TypeError, ValueError) as error:
                raise ValueError(f"sample {sample}: {error}") from None
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Take one sample."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _compute(self, predictions, references, at=(1, 3, 5)):
        if not all(isinstance(k, int) and k >= 1 for k in at):
            raise ValueError(f"`at` holds whole numbers from 1 up, not {at!r}")
        ranks = np.array([_rank(*pair) for pair in zip(predictions, references, strict=True)])
        if not ranks.size:
            raise ValueError("there is no sample")
        return {
            **{f"R@{k}": 100.0 * float((ranks <= k).mean()) for k in at},
            "MRR": _mean_reciprocal_rank(ranks, _MRR_CUT),
            **{f"MAP@{k}": _mean_reciprocal_rank(ranks, k) for k in at},
        }


def _rank(scores, reference):
    """Give the 1-based rank of the right candidate; of equal scores the lower position wins."""
    scores = np.array(scores, dtype=np.float64)  # a missing score becomes NaN
    if scores.ndim != 1:
        raise ValueError("the scores of a sample are a list of numbers, one for each candidate")
    if np.isnan(scores).any():
        raise ValueError("a score is missing or NaN")
    if np.asarray(reference).dtype.kind not in "iu" or np.ndim(reference):
        raise ValueError(f"the reference {reference!r} is not a whole number")
    if not 0 <= reference < len(scores):
        raise ValueError(f"the reference {reference} is none of {len(scores)} candidates")
    own = scores[reference]
    return 1 + int((scores > own).sum() + (scores[:reference] == own).sum())


def _mean_reciprocal_rank(ranks, cut):
    return 100.0 * float(np.where(ranks <= cut, 1.0 / ranks, 0.0).mean())
