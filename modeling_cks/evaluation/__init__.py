# SPDX-License-Identifier: Apache-2.0
"""How selection is judged: metrics, the evaluator for any ranker, and the yardsticks."""

from .bag_of_words import BagOfWordsRanker
from .evaluator import EvaluationResult, Ranker, RankerOutput, evaluate_ranker, write_samples
from .groups import (
    CONTRASTS,
    LEAST_SAMPLES,
    group_figures,
    sample_groups,
    sample_key,
    training_stickers,
)
from .metrics import emotion_accuracy, mean_reciprocal_rank, ranking_metrics, ranks, recall_at
from .probes import (
    REPAINTS,
    Counterfactual,
    delete_words,
    movements,
    restyle,
    reword,
    summarise,
    swap_last_utterance,
    swap_words,
)
from .significance import Difference, paired_bootstrap, sample_figures
from .yardsticks import ChanceRanker, MostFrequentRanker

__all__ = [
    "CONTRASTS",
    "LEAST_SAMPLES",
    "BagOfWordsRanker",
    "ChanceRanker",
    "Counterfactual",
    "Difference",
    "EvaluationResult",
    "MostFrequentRanker",
    "REPAINTS",
    "Ranker",
    "RankerOutput",
    "delete_words",
    "emotion_accuracy",
    "evaluate_ranker",
    "group_figures",
    "mean_reciprocal_rank",
    "movements",
    "paired_bootstrap",
    "ranking_metrics",
    "ranks",
    "recall_at",
    "restyle",
    "reword",
    "sample_figures",
    "sample_groups",
    "sample_key",
    "summarise",
    "swap_last_utterance",
    "swap_words",
    "training_stickers",
    "write_samples",
]
