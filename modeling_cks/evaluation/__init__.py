# SPDX-License-Identifier: Apache-2.0
"""How selection is judged: metrics, the evaluator for any ranker, and the yardsticks."""

from .evaluator import EvaluationResult, Ranker, RankerOutput, evaluate_ranker, write_samples
from .metrics import emotion_accuracy, mean_reciprocal_rank, ranking_metrics, ranks, recall_at
from .yardsticks import ChanceRanker, MostFrequentRanker

__all__ = [
    "ChanceRanker",
    "EvaluationResult",
    "MostFrequentRanker",
    "Ranker",
    "RankerOutput",
    "emotion_accuracy",
    "evaluate_ranker",
    "mean_reciprocal_rank",
    "ranking_metrics",
    "ranks",
    "recall_at",
    "write_samples",
]
