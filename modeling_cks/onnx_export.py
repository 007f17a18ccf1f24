# SPDX-License-Identifier: Apache-2.0
"""Export a CKSModel as three ONNX graphs, quantise them, and hold them against the model.

`stickers.onnx` encodes stickers, `dialogue.onnx` dialogues, `rank.onnx` fuses and scores. They are
traced from the model's own code, so that the formula of the scores stands in one place.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from .modeling_cks import CKSModel, CKSOutput
from .onnx_runtime import GRAPHS, OnnxCKS, graph_file
from .utterance_extractor import UtteranceExtractor

TOLERANCE = 1e-4
_OPSET = 20
# Of each input the axes that vary; what is alike has one name.
_AXES = {
    "pixel_values": ("stickers",),
    "sticker_embeds": ("stickers",),
    "ocr_input_ids": ("stickers", "ocr_tokens"),
    "ocr_attention_mask": ("stickers", "ocr_tokens"),
    "utterance_input_ids": ("utterances", "utterance_tokens"),
    "utterance_attention_mask": ("utterances", "utterance_tokens"),
    "knowledge": ("utterances",),
    "utterances": ("dialogues", "turns"),
    "speaker_ids": ("dialogues", "turns"),
    "history": ("dialogues", "turns"),
    "dialogue_embeds": ("dialogues",),
    "dialogue_input_ids": ("dialogues", "dialogue_tokens"),
    "dialogue_attention_mask": ("dialogues", "dialogue_tokens"),
    "candidates": ("dialogues", "candidates"),
}
# Lengths of the dialogues, stickers, candidates: all at their smallest, one turn with padding
# beside it, as many turns as there may be, more dialogues than stickers.
_SHAPES = (((1,), 1, 1), ((1, 3), 6, 4), ((8, 2, 5), 5, 5), ((2, 1, 2, 1, 4), 3, 7))


class ExportError(RuntimeError):
    """An exported graph that does not answer as its model does."""


def export_onnx(model: CKSModel, folder: str | os.PathLike) -> dict[str, float]:
    """Write a model's three graphs into a folder, float32, and compare them with it.

    Args:
        model: what is exported, float32 and in evaluation mode, on the CPU; it is not changed.
        folder: where the graphs and the model's configuration are written.

    Returns:
        Output name -> the largest difference between graphs and model over batches of random
        input that differ in every length, padding and history among them.

    Raises:
        ValueError: the model is in training mode or another precision.
        ExportError: a difference is above `TOLERANCE`.
    """
    if model.training or model.dtype != torch.float32:
        raise ValueError("export a model in evaluation mode and float32")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The weights are shared; only the code that reads them is another's.
    traced = copy.copy(model)
    traced._modules = dict(model._modules)
    traced.__class__ = _TracedCKS
    traced.utterance_extractor = copy.deepcopy(model.utterance_extractor)
    traced.utterance_extractor.__class__ = _TracedExtractor
    traced.utterance_extractor.order_weights()
    example = random_batch(model.config, (3, 2), 4, 5)
    with torch.no_grad():
        known = model(**example)
    example.update(sticker_embeds=known.sticker_embeds, dialogue_embeds=known.dialogue_embeds)
    for name, graph in zip(GRAPHS, (_Stickers, _Dialogue, _Rank), strict=True):
        _export(graph(traced), example, folder / graph_file(name))
    # Without its code: what lies in the folder is run by onnxruntime.
    model.config.save_pretrained(folder)
    differences = compare(model, OnnxCKS(folder))
    worst = max(differences, key=differences.get)
    if not differences[worst] <= TOLERANCE:
        raise ExportError(
            f"the exported {worst} differs from the model's by "
            f"{differences[worst]:.2g}, more than {TOLERANCE:g}"
        )
    return differences


def quantise(folder: str | os.PathLike) -> None:
    """Write each graph of an exported folder once more, its weights as 8-bit integers.

    Activations are quantised as they come (dynamic quantisation). Convolutions, CLIP's patches,
    stay as they are: onnxruntime's integer convolution is slower.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises, on the root logger, a step that fails on the LSTM
    try:
        for name in GRAPHS:
            quantize_dynamic(
                Path(folder, graph_file(name)),
                Path(folder, graph_file(name, int8=True)),
                op_types_to_quantize=["MatMul", "Gather", "LSTM"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
    finally:
        root.setLevel(level)


def compare(model: CKSModel, exported: OnnxCKS) -> dict[str, float]:
    """Return the largest difference of each output between a model and its export."""
    worst: dict[str, float] = {}
    for seed, (lengths, stickers, candidates) in enumerate(_SHAPES):
        batch = random_batch(model.config, lengths, stickers, candidates, seed)
        with torch.no_grad():
            wanted = model(**batch)
        for name, found in exported(**batch).items():
            worst[name] = max(worst.get(name, 0.0), largest_difference(wanted[name], found))
    return worst


def largest_difference(wanted: Tensor, found: np.ndarray) -> float:
    """Return the largest absolute difference; infinite for another shape or a lone NaN."""
    wanted = wanted.float().cpu().numpy()
    if wanted.shape != found.shape:
        return float("inf")
    differ = wanted != found
    difference = np.abs(wanted[differ] - found[differ]).max(initial=0.0)
    return float("inf") if np.isnan(difference) else float(difference)


def random_batch(
    config, lengths: tuple[int, ...], stickers: int, candidates: int, seed: int = 0
) -> dict[str, Tensor]:
    """Draw what a model takes: a dialogue of each length, padded to the longest.

    Every second dialogue has a history of stickers and lacks its last candidate, where it has
    more than one; the words of all differ in length, and the first sticker has none.
    """
    generator = torch.Generator().manual_seed(seed)

    def below(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator)

    def words(name: str, counts: list[int], vocabulary: int) -> dict[str, Tensor]:
        mask = (torch.arange(max(counts)) < torch.tensor(counts)[:, None]).long()
        return {
            f"{name}_input_ids": below(vocabulary, *mask.shape) * mask,
            f"{name}_attention_mask": mask,
        }

    rows, turns = len(lengths), max(lengths)
    real = torch.arange(turns) < torch.tensor(lengths)[:, None]
    distinct = sum(lengths)
    utterances = torch.full((rows, turns), -1)
    utterances[real] = torch.arange(distinct)
    odd = (torch.arange(rows) % 2 == 1)[:, None]
    shown = real & odd & (below(2, rows, turns) == 1)
    chosen = below(stickers, rows, candidates)
    if candidates > 1:
        chosen[odd[:, 0], -1] = -1
    size = config.vision_config.image_size
    batch = {
        "utterances": utterances,
        "speaker_ids": below(2, rows, turns),
        "history": below(stickers, rows, turns).masked_fill(~shown, -1),
        "pixel_values": torch.randn(stickers, 3, size, size, generator=generator),
        "candidates": chosen,
        **words("utterance", [2 + n % 5 for n in range(distinct)], config.text_config.vocab_size),
        **words("dialogue", [3 * n for n in lengths], config.bert_config.vocab_size),
        **words("ocr", [n % 4 for n in range(stickers)], config.bert_config.vocab_size),
    }
    if config.use_keue and config.use_knowledge:
        batch["knowledge"] = torch.randn(distinct, 2, config.knowledge_size, generator=generator)
    return batch


def _export(graph: _Graph, example: dict[str, Tensor], path: Path) -> None:
    names = graph.inputs()
    config = graph.model.config
    # RoBERTa's family counts positions from behind its padding index.
    positions = config.text_config.max_position_embeddings
    if "roberta" in config.text_config.model_type:
        positions -= config.text_config.pad_token_id + 1
    dims = {axis: Dim(axis) for axes in _AXES.values() for axis in axes}
    dims["utterance_tokens"] = Dim("utterance_tokens", max=positions)
    axes = {name: dict(enumerate(_AXES[name])) for name in names}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        # By itself the exporter would quietly fix an axis that it cannot follow.
        program = torch.export.export(
            graph,
            (),
            kwargs={name: example[name] for name in names},
            dynamic_shapes={
                name: {place: dims[axis] for place, axis in axes[name].items()} for name in names
            },
        )
        torch.onnx.export(
            program, f=path, dynamic_shapes=axes, input_names=names,
            output_names=graph.outputs(), opset_version=_OPSET, external_data=False, verbose=False,
        )  # fmt: skip


class _Graph(nn.Module):
    """A part of the model: `forward` takes by name what the configuration needs of it."""

    def __init__(self, model: CKSModel):
        super().__init__()
        self.model = model

    def inputs(self) -> list[str]:
        raise NotImplementedError

    def outputs(self) -> list[str]:
        raise NotImplementedError


class _Stickers(_Graph):
    def inputs(self) -> list[str]:
        return ["pixel_values"]

    def outputs(self) -> list[str]:
        return ["sticker_embeds"]

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_stickers(pixel_values)


class _Dialogue(_Graph):
    def inputs(self) -> list[str]:
        config = self.model.config
        names = ["utterance_input_ids", "utterance_attention_mask", "utterances"]
        if config.use_keue:
            names.append("speaker_ids")
            names += ["knowledge"] if config.use_knowledge else []
        return names + (["history", "sticker_embeds"] if config.sticker_history else [])

    def outputs(self) -> list[str]:
        keue = self.model.config.use_keue
        return ["dialogue_embeds", "utterance_weights"] if keue else ["dialogue_embeds"]

    def forward(
        self,
        utterance_input_ids: Tensor,
        utterance_attention_mask: Tensor,
        utterances: Tensor,
        speaker_ids: Tensor | None = None,
        knowledge: Tensor | None = None,
        history: Tensor | None = None,
        sticker_embeds: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        embeds = self.model.encode_utterances(utterance_input_ids, utterance_attention_mask)
        encoded = self.model.encode_dialogue(
            embeds, utterances, speaker_ids, knowledge, history, sticker_embeds
        )
        return tuple(each for each in encoded if each is not None)


class _Rank(_Graph):
    def inputs(self) -> list[str]:
        config = self.model.config
        names = ["dialogue_embeds", "sticker_embeds", "candidates"]
        if config.needs_fusion:
            names += ["dialogue_input_ids", "dialogue_attention_mask"]
            names += ["ocr_input_ids", "ocr_attention_mask"] if config.use_ocr else []
            names += ["utterances", "speaker_ids", "history"] if config.sticker_history else []
        return names

    def outputs(self) -> list[str]:
        config = self.model.config
        return [
            "scores",
            *(["contrastive_logits"] if config.use_itc else []),
            *(["match_logits"] if config.use_itm else []),
            *(["candidate_emotion_logits"] if config.use_emotion else []),
        ]

    def forward(
        self,
        dialogue_embeds: Tensor,
        sticker_embeds: Tensor,
        candidates: Tensor,
        dialogue_input_ids: Tensor | None = None,
        dialogue_attention_mask: Tensor | None = None,
        ocr_input_ids: Tensor | None = None,
        ocr_attention_mask: Tensor | None = None,
        utterances: Tensor | None = None,
        speaker_ids: Tensor | None = None,
        history: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        output = CKSOutput(dialogue_embeds=dialogue_embeds, sticker_embeds=sticker_embeds)
        sequence = None
        if self.model.config.needs_fusion:
            sequence = self.model._embed_sequence(
                dialogue_embeds, dialogue_input_ids, dialogue_attention_mask, ocr_input_ids,
                ocr_attention_mask, history, utterances, speaker_ids, sticker_embeds,
            )  # fmt: skip
        self.model._score(output, sequence, candidates)
        return tuple(output[name] for name in self.outputs())


class _TracedCKS(CKSModel):
    """A CKSModel without the shortcuts whose shapes depend on the data; it answers the same."""

    def encode_utterances(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state[:, 0]

    def _cut_history(self, history: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return history, own

    def _judge(
        self, sequence, candidates: Tensor, sticker_embeds: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        real = candidates >= 0
        dialogues = torch.arange(candidates.shape[0], device=candidates.device)
        dialogues = dialogues[:, None].expand(candidates.shape).flatten()
        stickers = candidates.clamp(min=0).flatten()
        judged = self._fuse(sequence, dialogues, stickers, sticker_embeds[stickers])
        return tuple(
            None
            if logits is None
            else logits.unflatten(0, candidates.shape).masked_fill(~real[..., None], 0.0)
            for logits in judged
        )


class _TracedExtractor(UtteranceExtractor):
    """KEUE whose LSTM is ONNX's own, which knows the length of each row.

    A packed sequence's shape depends on the data, and torch's LSTM is traced for one length.
    """

    def order_weights(self) -> None:
        """Keep the LSTM's weights as ONNX wants them."""

        def ordered(name: str) -> Tensor:
            both = []
            for suffix in ("", "_reverse"):
                # torch's gates are input, forget, cell, output; ONNX's input, output, forget, cell
                i, f, c, o = getattr(self.lstm, name + suffix).detach().chunk(4)
                both.append(torch.cat([i, o, f, c]))
            return torch.stack(both)

        self.register_buffer("onnx_inputs", ordered("weight_ih_l0"))
        self.register_buffer("onnx_states", ordered("weight_hh_l0"))
        biases = torch.cat([ordered("bias_ih_l0"), ordered("bias_hh_l0")], dim=1)
        self.register_buffer("onnx_biases", biases)

    def encode_states(self, utterance_embeds: Tensor, utterance_mask: Tensor) -> Tensor:
        rows, turns, _ = utterance_embeds.shape
        states = torch.onnx.ops.symbolic(
            "LSTM",
            (
                utterance_embeds.transpose(0, 1),
                self.onnx_inputs,
                self.onnx_states,
                self.onnx_biases,
                utterance_mask.sum(1).to(torch.int32),
            ),
            {"hidden_size": self.lstm.hidden_size, "direction": "bidirectional"},
            dtype=utterance_embeds.dtype,
            shape=(turns, 2, rows, self.lstm.hidden_size),
        )
        return states.permute(2, 0, 1, 3).flatten(2)
