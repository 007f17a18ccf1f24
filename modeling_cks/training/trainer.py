# SPDX-License-Identifier: Apache-2.0
"""A Trainer for CKS: every loss is logged, and evaluation is ranking."""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.dynamic_module_utils import custom_object_save

from ..evaluation.evaluator import evaluate_ranker
from ..utterance_features import UtteranceFeatures
from .arguments import CKSTrainingArguments
from .collator import CKSCollator, DialogueSampler, StickerInventory, TrainingSamples

_LOSSES = ("match_loss", "contrastive_loss", "emotion_loss", "triplet_loss")
# What comes pretrained when it comes from a checkpoint; everything else starts from scratch.
BACKBONES = ("text_encoder.", "visual_extractor.clip.", "multimodal_encoder.embeddings.")

_STICKERS_A_PASS = 64


class Epoch(TrainerCallback):
    """Tell the samples which epoch it is, so that its negatives are drawn."""

    def __init__(self, samples: TrainingSamples):
        self.samples = samples

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Pass the number of the epoch on."""
        self.samples.set_epoch(int(state.epoch or 0))


class WholeRepository(TrainerCallback):
    """Add to each push what the library leaves out: the processor, and the code of the model."""

    def __init__(self, processor):
        self.processor = processor

    def on_push_begin(self, args, state, control, model=None, **kwargs):
        """Write them where the library takes from."""
        if state.is_world_process_zero:
            self.processor.save_pretrained(args.output_dir)
            custom_object_save(model, args.output_dir)


class CKSTrainer(Trainer):
    """[`Trainer`] that takes prepared rows and evaluates by ranking their candidates.

    Args:
        model: a [`CKSModel`].
        args: [`CKSTrainingArguments`].
        processor: the model's [`CKSProcessor`].
        inventory: the stickers.
        train_dataset: [`TrainingSamples`].
        eval_dataset: rows with candidates.
        knowledge: False trains and evaluates without COMET.
        **kwargs: what [`Trainer`] takes.
    """

    def __init__(
        self,
        model,
        args: CKSTrainingArguments,
        processor,
        inventory: StickerInventory,
        train_dataset: TrainingSamples | None = None,
        eval_dataset=None,
        knowledge: bool = True,
        **kwargs,
    ):
        # The collator reads every column, also those that forward has no argument for.
        args.remove_unused_columns = False
        self.processor, self.inventory, self.knowledge = processor, inventory, knowledge
        frozen = freeze(model, args.freeze)
        # What is frozen is not computed again at every step.
        self.features = None
        if not any(parameter.requires_grad for parameter in model.text_encoder.parameters()):
            self.features = UtteranceFeatures(model, processor, remembered=None)
        super().__init__(
            model,
            args,
            data_collator=CKSCollator(
                processor, inventory, knowledge=knowledge, features=self.features
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        self.frozen_parameters = frozen
        self._sums: dict[str, torch.Tensor | float] = defaultdict(float)
        self._steps = 0
        self.add_callback(WholeRepository(processor))
        if isinstance(train_dataset, TrainingSamples):
            self.add_callback(Epoch(train_dataset))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the total loss and remember its parts for the log."""
        output = model(**inputs)
        for name in _LOSSES:
            value = getattr(output, name)
            if value is not None:
                self._sums[name] = self._sums[name] + value.detach().float()
        self._steps += 1
        return (output.loss, output) if return_outputs else output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean of each loss since the last time beside the total."""
        if "loss" in logs and self._steps:
            for name, total in self._sums.items():
                # Every process logs, so all of them meet here.
                mean = self.accelerator.reduce(total / self._steps, "mean")
                logs[name] = round(float(mean), 4)
            self._sums.clear()
            self._steps = 0
        super().log(logs, start_time)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval"):
        """Rank the candidates of the rows; the figures are those of the evaluation script.

        Several processes rank the same rows each: the validation split is small, and every
        process must come to the same decision on stopping.
        """
        rows = eval_dataset if eval_dataset is not None else self.eval_dataset
        # Imported here: the ranker itself stands on this package's collator.
        from ..cks_ranker import CKSRanker

        model = self.accelerator.unwrap_model(self.model)
        ranker = CKSRanker(
            model,
            self.processor,
            self.inventory,
            knowledge=self.knowledge,
            features=self.features,
        )
        result = evaluate_ranker(
            ranker,
            rows,
            batch_size=self.args.per_device_eval_batch_size,
            progress=self.is_world_process_zero() and not self.args.disable_tqdm,
        )
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in result.metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _get_train_sampler(self, train_dataset=None):
        samples = train_dataset if train_dataset is not None else self.train_dataset
        if self.args.group_by_dialogue and isinstance(samples, TrainingSamples):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            return DialogueSampler(samples.dialogue_ids(), seed)
        return super()._get_train_sampler(train_dataset)

    def get_train_dataloader(self):
        """Encode once what frozen encoders read, utterances and stickers, then load."""
        model = self.accelerator.unwrap_model(self.model)
        extractor = model.visual_extractor
        if not any(parameter.requires_grad for parameter in extractor.clip.parameters()):
            self.data_collator.clip_embeds = _clip_embeds(extractor, self.inventory, model.device)
            self.data_collator.pixels = extractor.use_cim
        if self.features is not None and isinstance(self.train_dataset, TrainingSamples):
            said = self.train_dataset.utterances(
                self.processor.max_utterances, math.ceil(self.args.num_train_epochs)
            )
            hidden = self.args.disable_tqdm or not self.is_world_process_zero()
            with tqdm(total=len(said), desc="utterances", unit="utterance", disable=hidden) as bar:
                self.features(said, progress=bar.update)
        return super().get_train_dataloader()

    def create_optimizer(self, *args, **kwargs):
        """Give the pretrained parts a learning rate of their own where one is set."""
        two_rates(self, BACKBONES)
        return super().create_optimizer(*args, **kwargs)


def two_rates(trainer: Trainer, pretrained: tuple[str, ...]) -> None:
    """Make a trainer's optimizer with `backbone_learning_rate` for the pretrained parameters.

    Args:
        trainer: its arguments are [`CKSTrainingArguments`]; without a `backbone_learning_rate`, or
            with an optimizer, it is left as it is.
        pretrained: the beginnings of the pretrained parameters' names.
    """
    rate = trainer.args.backbone_learning_rate
    if trainer.optimizer is not None or rate is None:
        return
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    groups: dict[tuple[bool, bool], list] = defaultdict(list)
    for name, parameter in trainer.model.named_parameters():
        if parameter.requires_grad:
            groups[name.startswith(pretrained), name in decayed].append(parameter)
    optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    trainer.optimizer = optimizer_class(
        [
            {
                "params": parameters,
                "lr": rate if own else trainer.args.learning_rate,
                "weight_decay": trainer.args.weight_decay if decay else 0.0,
            }
            for (own, decay), parameters in groups.items()
        ],
        **options,
    )


@torch.no_grad()
def _clip_embeds(extractor, inventory: StickerInventory, device: torch.device) -> torch.Tensor:
    """Return CLIP's features of all stickers (len(inventory), hidden), on the CPU."""
    training = extractor.clip.training
    extractor.clip.eval()
    try:
        return torch.cat(
            [
                extractor.encode_images(inventory.pixel_values(places.tolist()).to(device)).cpu()
                for places in torch.arange(len(inventory)).split(_STICKERS_A_PASS)
            ]
        )
    finally:
        extractor.clip.train(training)


def freeze(model: torch.nn.Module, beginnings: list[str]) -> int:
    """Freeze the parameters whose names begin so, and count them.

    Raises:
        ValueError: if a beginning names no parameter.
    """
    count = 0
    for beginning in beginnings:
        named = [p for name, p in model.named_parameters() if name.startswith(beginning)]
        if not named:
            raise ValueError(f"freeze: no parameter's name begins with {beginning!r}")
        for parameter in named:
            parameter.requires_grad_(False)
            count += parameter.numel()
    return count
