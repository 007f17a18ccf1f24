# SPDX-License-Identifier: Apache-2.0
"""Train a baseline by the library's Trainer on the samples and negatives that CKS sees."""

from __future__ import annotations

from collections import defaultdict

import torch
from transformers import Trainer

from ..evaluation.evaluator import evaluate_ranker
from ..training.arguments import CKSTrainingArguments
from ..training.collator import TrainingSamples
from ..training.trainer import Epoch, freeze, two_rates
from .base import Baseline


class BaselineTrainer(Trainer):
    """[`Trainer`] for a [`Baseline`] that has its stickers; evaluation is ranking.

    Args:
        model: the baseline, after `use_stickers`.
        args: [`CKSTrainingArguments`]; `freeze` names the parameters that are not trained, and
            `backbone_learning_rate` is the rate of those that come pretrained.
        train_dataset: [`TrainingSamples`].
        eval_dataset: rows with candidates.
        **kwargs: what [`Trainer`] takes.
    """

    def __init__(
        self,
        model: Baseline,
        args: CKSTrainingArguments,
        train_dataset: TrainingSamples | None = None,
        eval_dataset=None,
        **kwargs,
    ):
        args.remove_unused_columns = False
        freeze(model, args.freeze)
        # Baselines freeze parts of their own as well.
        self.frozen_parameters = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        super().__init__(
            model, args, data_collator=model.collate, train_dataset=train_dataset,
            eval_dataset=eval_dataset, **kwargs,
        )  # fmt: skip
        # The batch is no sequence of tokens to be counted: every loss is a mean over samples.
        self.model_accepts_loss_kwargs = False
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._steps = 0
        if isinstance(train_dataset, TrainingSamples):
            self.add_callback(Epoch(train_dataset))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the total loss and remember its parts for the log."""
        losses = model(**inputs)
        for name, value in losses.items():
            if name != "loss":
                self._sums[name] = self._sums[name] + value.detach().float()
        self._steps += 1
        return (losses["loss"], losses) if return_outputs else losses["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean of each loss since the last time beside the total."""
        if "loss" in logs and self._steps:
            for name, total in self._sums.items():
                logs[name] = round(float(total / self._steps), 4)
            self._sums.clear()
            self._steps = 0
        super().log(logs, start_time)

    def create_optimizer(self, *args, **kwargs):
        """Give the pretrained parts a learning rate of their own where one is set."""
        two_rates(self, self.accelerator.unwrap_model(self.model).pretrained)
        return super().create_optimizer(*args, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Rank the candidates of the rows; the figures are those of every evaluation."""
        rows = eval_dataset if eval_dataset is not None else self.eval_dataset
        baseline = self.accelerator.unwrap_model(self.model)
        found = evaluate_ranker(
            baseline, rows, batch_size=self.args.eval_batch_size,
            progress=not self.args.disable_tqdm,
        ).metrics  # fmt: skip
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics
