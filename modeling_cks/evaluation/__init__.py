# SPDX-License-Identifier: Apache-2.0
"""How selection is judged: metrics, the evaluator for any ranker, and the yardsticks."""

from .bag_of_words import BagOfWordsRanker
from .evaluator import EvaluationResult, Ranker, RankerOutput, evaluate_ranker, write_samples
from .metrics import emotion_accuracy, mean_reciprocal_rank, ranking_metrics, ranks, recall_at
from .significance import Difference, paired_bootstrap, sample_figures
from .yardsticks import ChanceRanker, MostFrequentRanker

__all__ = [
    "BagOfWordsRanker",
    "ChanceRanker",
    "Difference",
    "EvaluationResult",
    "MostFrequentRanker",
    "Ranker",
    "RankerOutput",
    "emotion_accuracy",
    "evaluate_ranker",
    "mean_reciprocal_rank",
    "paired_bootstrap",
    "ranking_metrics",
    "ranks",
    "recall_at",
    "sample_figures",
    "write_samples",
]
