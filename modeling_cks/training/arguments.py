# SPDX-License-Identifier: Apache-2.0
"""The library's training arguments and the few that CKS adds."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class CKSTrainingArguments(TrainingArguments):
    """[`TrainingArguments`] with a learning rate for pretrained parts and names to freeze.

    Args:
        backbone_learning_rate: the rate of the encoders that come pretrained (utterance encoder,
            CLIP, BERT's embedding layer); `learning_rate` unless given, as in the paper, where
            all parts share one.
        freeze: names of parameters, or beginnings of them, that are not trained, such as
            `text_encoder.embeddings`.
        group_by_dialogue: whether the samples of a dialogue stand in one batch. They share
            utterances, which are then encoded once for all of them, and are each other's
            negatives in contrast: same speakers, other moments.
        word_intervention: how likely an utterance of a training dialogue has its words of
            emotional preference replaced by words drawn at random, do(W); 0 leaves them.
    """

    backbone_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the pretrained encoders."}
    )
    freeze: list[str] = field(
        default_factory=list, metadata={"help": "Beginnings of parameter names to freeze."}
    )
    group_by_dialogue: bool = field(
        default=False, metadata={"help": "Keep the samples of a dialogue in one batch."}
    )
    word_intervention: float = field(
        default=0.0, metadata={"help": "Probability of redrawing an utterance's emotional words."}
    )
