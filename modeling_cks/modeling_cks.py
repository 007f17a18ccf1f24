# SPDX-License-Identifier: Apache-2.0
"""CKS, the causal knowledge-enhanced sticker selection model."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_cks import CKSConfig
from .losses import contrastive_loss, emotion_loss, match_loss, triplet_loss
from .multimodal_encoder import FusionLayer, MultimodalEncoder
from .utterance_extractor import UtteranceExtractor
from .visual_extractor import ContentInvariantModule, VisualExtractor, VisualKnowledgeDeconfounder

# Encoders of the BERT kind carry a pooler that CKS never reads; left in, its unused weights stop
# training over several processes.
_HAVE_POOLER = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "ernie")
_UTTERANCES_A_PASS = 64
# A GPU has more to lose by many small passes than by padding.
_UTTERANCES_A_PASS_ON_GPU = 1024
# As large as the words they are added to, so that [HEAD] can look for the one sticker among the
# many words from the first step on.
_PART_STD = 0.3
# Pairs of dialogue and sticker ranked at once: a pack of thousands would not fit into memory.
_PAIRS_A_PASS = 512
# On a CPU what a layer's feed-forward makes of a pass should stay in its cache: a quarter faster.
_CACHED_BYTES = 16 << 20


@dataclass
class CKSOutput(ModelOutput):
    """What a [`CKSModel`] answers for B dialogues, S distinct stickers and N candidates.

    Args:
        loss: scalar, L_itm + L_co + 0.5 L_em + 0.3 L_tri (equation 14); None without `positive`.
        match_loss, contrastive_loss, emotion_loss, triplet_loss: scalars, its parts, unweighted;
            None without `positive` or where an ablation removed the part.
        scores: (B, N), softmax over the candidates of the contrastive logits plus P(match); -inf
            where `candidates` is -1. None without `candidates`.
        contrastive_logits: (B, N), scaled cosines of h~_T and v; -inf on padding. None without
            `candidates` or contrast.
        match_logits: (B, N, 2) of (no match, match); zero on padding. None without `candidates`
            or the match head.
        candidate_emotion_logits: (B, N, C), the emotion given each candidate; zero on padding.
            None without `candidates` or the emotion head.
        emotion_logits: (B, C), the emotion given the right sticker. None without `positive` or
            the emotion head.
        dialogue_embeds: (B, D), h~_T.
        sticker_embeds: (S, D), the unbiased feature v of each distinct sticker.
        utterance_weights: (B, T), how emotional each utterance is to the present turn; zero on
            padding, None without KEUE.
    """

    loss: Tensor | None = None
    match_loss: Tensor | None = None
    contrastive_loss: Tensor | None = None
    emotion_loss: Tensor | None = None
    triplet_loss: Tensor | None = None
    scores: Tensor | None = None
    contrastive_logits: Tensor | None = None
    match_logits: Tensor | None = None
    candidate_emotion_logits: Tensor | None = None
    emotion_logits: Tensor | None = None
    dialogue_embeds: Tensor | None = None
    sticker_embeds: Tensor | None = None
    utterance_weights: Tensor | None = None


@dataclass
class _Sequence:
    """The parts of the multimodal encoder's input, each embedded once for many pairs."""

    dialogue: list[tuple[Tensor, Tensor]]  # (B, L, width) and (B, L), in the sequence's order
    ocr: tuple[Tensor, Tensor] | None  # (S, Lo), words and mask, until `with_words` embeds them

    def of(self, stickers: Tensor) -> "_Sequence":
        """Keep of the stickers' words those of the given ones, without the padding of the rest."""
        if self.ocr is None:
            return self
        mask = self.ocr[1][stickers]
        longest = int(mask.sum(1).max())
        return _Sequence(self.dialogue, (self.ocr[0][stickers, :longest], mask[:, :longest]))


class CKSPreTrainedModel(PreTrainedModel):
    """What all CKS modules share with the library: loading, initialising, checkpointing."""

    config_class = CKSConfig
    base_model_prefix = "cks"
    main_input_name = "dialogue_input_ids"
    input_modalities = ("text", "image")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = (
        "FusionLayer",
        "TokenEmbeddings",
        "VisualKnowledgeDeconfounder",
        "ContentInvariantModule",
        "CLIPVisionEmbeddings",
        "CLIPEncoderLayer",
        "RobertaEmbeddings",
        "RobertaLayer",
        "BertEmbeddings",
        "BertLayer",
    )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if getattr(module, "outside_stack", False):
            init.xavier_uniform_(module.weight)
        elif getattr(module, "tells_parts", False):
            init.normal_(module.weight, std=_PART_STD)
        if isinstance(module, ContentInvariantModule):
            module.fill_buffers()
        elif isinstance(module, VisualKnowledgeDeconfounder):
            init.zeros_(module.dictionary)
            words = len(self.config.dictionary_words)
            prior = self.config.dictionary_prior or [1 / words] * words
            init.copy_(module.prior, torch.tensor(prior, dtype=torch.float32))
        elif isinstance(module, MultimodalEncoder):
            init.normal_(module.head_token, std=_PART_STD)
        elif isinstance(module, CKSModel) and self.config.use_itc:
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)


class CKSModel(CKSPreTrainedModel):
    """Rank stickers for a dialogue and name the emotion with which one is sent.

    Example:
        ```python
        >>> from modeling_cks import CKSConfig, CKSModel
        >>> model = CKSModel(CKSConfig(num_labels=48))  # the paper's sizes, random weights

        ```
    """

    # The code travels with what is saved.
    _auto_class = "AutoModel"
    # The losses are means over samples, never sums over tokens that the trainer would divide.
    accepts_loss_kwargs = False

    def __init__(self, config: CKSConfig):
        super().__init__(config)
        kind = config.text_config.model_type
        unpooled = {"add_pooling_layer": False} if kind in _HAVE_POOLER else {}
        self.text_encoder = AutoModel.from_config(config.text_config, **unpooled)
        if config.sticker_history:
            self.history_projection = nn.Linear(config.embed_size, config.text_config.hidden_size)
        self.utterance_extractor = UtteranceExtractor(config)
        self.visual_extractor = VisualExtractor(config)
        if config.needs_fusion:
            self.multimodal_encoder = MultimodalEncoder(config)
        if config.use_itc:
            self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value))
        self._mark_maps()
        self.post_init()

    def _mark_maps(self) -> None:
        """Mark the linear maps that stand outside any stack of normed layers, for `_init_weights`.

        BERT's small normal suits a deep stack under layer norms; of these maps each would shrink
        its input to a third, and h~_T and v would start out as next to nothing. Xavier's keeps
        their size.
        """
        left = set(self.text_encoder.modules()) | set(self.visual_extractor.clip.modules())
        for module in self.modules():
            # VKD is left small too: its v~ is nearly the same for every sticker, and a large
            # constant in v would hide from contrast what tells stickers apart.
            if isinstance(module, (FusionLayer, VisualKnowledgeDeconfounder)):
                left |= set(module.modules())
        for module in self.modules():
            if isinstance(module, nn.Linear) and module not in left:
                module.outside_stack = True
            if isinstance(module, MultimodalEncoder):
                module.part_embeddings.tells_parts = True

    def get_input_embeddings(self) -> nn.Module:
        """Return the utterance encoder's word embeddings."""
        return self.text_encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the utterance encoder's word embeddings."""
        self.text_encoder.set_input_embeddings(value)

    def forward(
        self,
        utterances: Tensor,
        speaker_ids: Tensor,
        utterance_input_ids: Tensor | None = None,
        utterance_attention_mask: Tensor | None = None,
        utterance_embeds: Tensor | None = None,
        knowledge: Tensor | None = None,
        dialogue_input_ids: Tensor | None = None,
        dialogue_attention_mask: Tensor | None = None,
        history: Tensor | None = None,
        pixel_values: Tensor | None = None,
        clip_embeds: Tensor | None = None,
        sticker_embeds: Tensor | None = None,
        ocr_input_ids: Tensor | None = None,
        ocr_attention_mask: Tensor | None = None,
        sticker_ids: Tensor | None = None,
        positive: Tensor | None = None,
        negative: Tensor | None = None,
        positive_shares: Tensor | None = None,
        candidates: Tensor | None = None,
        emotion_labels: Tensor | None = None,
        match_best: int | None = None,
    ) -> CKSOutput:
        """Encode distinct utterances and stickers; score candidates, compute losses, or both.

        Dialogues of one conversation share most of their utterances, and samples share stickers,
        so each distinct one of the batch comes once and the dialogues name their places.

        Args:
            utterances: (B, T), the place of each utterance among the U distinct ones; -1 pads on
                the right. At least one in each row.
            speaker_ids: (B, T), 0 or 1.
            utterance_input_ids, utterance_attention_mask: (U, L), each distinct utterance as
                `[CLS] [speaker] words`.
            utterance_embeds: (U, D_text), r where it is known; takes their place.
            knowledge: (U, 2, knowledge_size), COMET's sums (equation 2).
            dialogue_input_ids, dialogue_attention_mask: (B, Ld), the whole dialogue's words.
            history: (B, T), for each utterance the place among the S stickers of the sticker it
                carried, -1 for none.
            pixel_values: (S, 3, n, n), each distinct sticker once.
            clip_embeds: (S, hidden), CLIP's class-token features where they are known, as of a
                frozen CLIP; pixels are then read only where CIM redraws their style.
            sticker_embeds: (S, D), unbiased features where they are known; takes the place of both.
            ocr_input_ids, ocr_attention_mask: (S, Lo), the words on each sticker.
            sticker_ids: (S,), a number for each sticker that all processes agree on; needed only
                to train over several processes.
            positive, negative: (B,), places among the S stickers.
            positive_shares: (B,), the share of the training samples that carry the same right
                sticker, for `logq_correction`.
            candidates: (B, N), places among the S stickers, -1 pads.
            emotion_labels: (B,), -100 where unlabelled.
            match_best: a shortcut that is not exact: only so many candidates of each dialogue, the
                best by contrast, are judged by the multimodal encoder. Each of the others scores
                its share in the contrast less 1, and so comes behind them, in contrast's order;
                its match and emotion logits are zero.

        Raises:
            ValueError: if an input that the configuration needs is missing, or `match_best` is
                below 1 or set without contrast.
        """
        self._check_inputs(locals())
        # Features come in the precision in which they were stored, pixels in float32.
        pixel_values, clip_embeds, sticker_embeds, utterance_embeds, knowledge = (
            None if given is None else given.to(self.dtype)
            for given in (pixel_values, clip_embeds, sticker_embeds, utterance_embeds, knowledge)
        )
        visual = augmented = None
        if sticker_embeds is None:
            visual, augmented, sticker_embeds = self.visual_extractor(pixel_values, clip_embeds)
        if utterance_embeds is None:
            utterance_embeds = self.encode_utterances(utterance_input_ids, utterance_attention_mask)
        hidden = self._hidden_words(utterances, knowledge)
        if hidden is not None and dialogue_attention_mask is not None:
            dialogue_attention_mask = dialogue_attention_mask.masked_fill(hidden[:, None], 0)
        dialogue_embeds, weights = self.encode_dialogue(
            utterance_embeds, utterances, speaker_ids, knowledge, history, sticker_embeds, hidden
        )
        output = CKSOutput(
            dialogue_embeds=dialogue_embeds,
            sticker_embeds=sticker_embeds,
            utterance_weights=weights,
        )
        sequence = None
        if self.config.needs_fusion:
            sequence = self._embed_sequence(
                dialogue_embeds,
                dialogue_input_ids,
                dialogue_attention_mask,
                ocr_input_ids,
                ocr_attention_mask,
                history,
                utterances,
                speaker_ids,
                sticker_embeds,
            )
        if candidates is not None:
            self._score(output, sequence, candidates, match_best)
        if positive is not None:
            if sticker_ids is None:
                sticker_ids = torch.arange(len(sticker_embeds), device=positive.device)
            self._add_losses(
                output,
                sequence,
                visual,
                augmented,
                positive,
                negative,
                positive_shares,
                emotion_labels,
                sticker_ids,
            )
        return output

    def encode_utterances(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode distinct utterances (U, L) into r (U, D_text).

        They go through the encoder by length, so that short ones are not padded to the longest:
        on a CPU that more than halves the work.
        """
        lengths = attention_mask.sum(1)
        order = lengths.argsort()
        encoded = []
        on_cpu = input_ids.device.type == "cpu"
        for rows in order.split(_UTTERANCES_A_PASS if on_cpu else _UTTERANCES_A_PASS_ON_GPU):
            longest = int(lengths[rows[-1]])
            encoded.append(
                self.text_encoder(
                    input_ids=input_ids[rows, :longest],
                    attention_mask=attention_mask[rows, :longest],
                ).last_hidden_state[:, 0]
            )
        return torch.cat(encoded)[order.argsort()]

    def encode_dialogue(
        self,
        utterance_embeds: Tensor,
        utterances: Tensor,
        speaker_ids: Tensor,
        knowledge: Tensor | None = None,
        history: Tensor | None = None,
        sticker_embeds: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run KEUE: h~_T (B, D) and the utterances' weights (B, T).

        Arguments as in `forward`; `hidden` (B,) says whose words are not read.
        """
        places = utterances.clamp(min=0)
        utterance_embeds = utterance_embeds[places]
        if hidden is not None:
            utterance_embeds = utterance_embeds.masked_fill(hidden[:, None, None], 0.0)
        if knowledge is not None:
            knowledge = knowledge[places]
        if self.config.sticker_history and history is not None:
            shown = (history >= 0)[..., None]
            stickers = self.history_projection(sticker_embeds[history.clamp(min=0)])
            utterance_embeds = utterance_embeds + stickers.masked_fill(~shown, 0.0)
        return self.utterance_extractor(utterance_embeds, utterances >= 0, speaker_ids, knowledge)

    def encode_stickers(self, pixel_values: Tensor) -> Tensor:
        """Encode stickers (S, 3, n, n) into unbiased features v (S, D)."""
        return self.visual_extractor(pixel_values)[2]

    def _hidden_words(self, utterances: Tensor, knowledge: Tensor | None) -> Tensor | None:
        """Draw the samples (B,) whose words are hidden in this step; None for none."""
        config = self.config
        reads_knowledge = config.use_keue and config.use_knowledge and knowledge is not None
        if not (self.training and config.text_dropout and reads_knowledge):
            return None
        return torch.rand(len(utterances), device=utterances.device) < config.text_dropout

    def _check_inputs(self, given: dict) -> None:
        def need(name: str, why: str) -> None:
            if given[name] is None:
                raise ValueError(f"CKSModel needs `{name}` {why}")

        if given["utterance_embeds"] is None:
            need("utterance_input_ids", "(or `utterance_embeds`)")
            need("utterance_attention_mask", "beside `utterance_input_ids`")
        if given["sticker_embeds"] is None and given["clip_embeds"] is None:
            need("pixel_values", "(or `clip_embeds`, or `sticker_embeds`)")
        config = self.config
        if config.use_keue and config.use_knowledge:
            need(
                "knowledge",
                "since it was trained with COMET: name a COMET to the processor, or pass it "
                "knowledge=False, at some loss of quality",
            )
        if config.needs_fusion:
            need("dialogue_input_ids", "for the multimodal encoder")
            need("dialogue_attention_mask", "beside `dialogue_input_ids`")
            if config.use_ocr:
                need("ocr_input_ids", "since it was configured with OCR (use_ocr=True)")
                need("ocr_attention_mask", "beside `ocr_input_ids`")
        if given["match_best"] is not None:
            if not config.use_itc:
                raise ValueError("match_best needs contrast (use_itc=True) to tell the best")
            if given["match_best"] < 1:
                raise ValueError(f"match_best must be at least 1, not {given['match_best']}")
        if given["positive"] is not None:
            if config.use_itm or config.use_cim:
                need("negative", "to compute its losses")
            if config.use_emotion:
                need("emotion_labels", "to compute its losses")
            if config.use_itc and config.logq_correction:
                need("positive_shares", "to compute its losses (logq_correction=True)")
            if config.use_cim or (config.use_itm and config.negative_visual == "clip"):
                if config.use_cim or given["clip_embeds"] is None:
                    need("pixel_values", "to compute its losses")
                if given["sticker_embeds"] is not None:
                    raise ValueError(
                        "CKSModel needs `pixel_values` alone, without `sticker_embeds`, to "
                        "compute its losses"
                    )
            if config.use_itc and _several_processes():
                need("sticker_ids", "to compute its losses over several processes")

    def _embed_sequence(
        self,
        dialogue_embeds: Tensor,
        dialogue_input_ids: Tensor,
        dialogue_attention_mask: Tensor,
        ocr_input_ids: Tensor | None,
        ocr_attention_mask: Tensor | None,
        history: Tensor | None,
        utterances: Tensor,
        speaker_ids: Tensor,
        sticker_embeds: Tensor,
    ) -> _Sequence:
        """Embed the dialogues' parts of the sequence once, before pairs repeat them."""
        encoder = self.multimodal_encoder
        emotional = encoder.embed_dialogue(dialogue_embeds)
        dialogue = [
            (encoder.embed_tokens(dialogue_input_ids, "dialogue"), dialogue_attention_mask.bool()),
            (emotional, torch.ones_like(emotional[..., 0], dtype=torch.bool)),
        ]
        if self.config.sticker_history and history is not None:
            last = (utterances >= 0).sum(1, keepdim=True) - 1
            own = speaker_ids == speaker_ids.gather(1, last)
            history, own = self._cut_history(history, own)
            stickers = sticker_embeds[history.clamp(min=0)]
            dialogue.append((encoder.embed_history(stickers, own), history >= 0))
        ocr = (ocr_input_ids, ocr_attention_mask.bool()) if self.config.use_ocr else None
        return _Sequence(dialogue, ocr)

    def _with_words(self, sequence: _Sequence) -> _Sequence:
        """Embed the words of the stickers once, before pairs repeat them."""
        if sequence.ocr is None:
            return sequence
        words, mask = sequence.ocr
        embeds = self.multimodal_encoder.embed_tokens(words, "ocr")
        return _Sequence(sequence.dialogue, (embeds, mask))

    def _cut_history(self, history: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Move the few turns (B, T) that carry a sticker to the front and cut off the rest."""
        shown = history >= 0
        order = (~shown).long().argsort(dim=1, stable=True)[:, : max(int(shown.sum(1).max()), 1)]
        return history.gather(1, order), own.gather(1, order)

    def _fuse(
        self, sequence: _Sequence, dialogues: Tensor, stickers: Tensor, visual: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Judge P pairs, given as places of dialogues (P,), stickers (P,), and features (P, D)."""
        parts = [(embeds[dialogues], mask[dialogues]) for embeds, mask in sequence.dialogue]
        if sequence.ocr is not None:
            embeds, mask = sequence.ocr
            parts.append((embeds[stickers], mask[stickers]))
        sticker = self.multimodal_encoder.embed_stickers(visual)[:, None]
        parts.append((sticker, torch.ones_like(sticker[..., 0], dtype=torch.bool)))
        return self.multimodal_encoder(parts)

    def _score(
        self,
        output: CKSOutput,
        sequence: _Sequence | None,
        candidates: Tensor,
        match_best: int | None = None,
    ) -> None:
        """Fill in the scores of section 5: softmax over contrastive logits, plus P(match)."""
        real = candidates >= 0
        scores = torch.zeros(candidates.shape, device=candidates.device)
        if self.config.use_itc:
            dialogue = F.normalize(output.dialogue_embeds, dim=-1)
            sticker = F.normalize(output.sticker_embeds, dim=-1)[candidates.clamp(min=0)]
            logits = self.logit_scale.exp() * (sticker @ dialogue[..., None]).squeeze(-1)
            output.contrastive_logits = logits.masked_fill(~real, float("-inf"))
            shares = output.contrastive_logits.float().softmax(-1)
            scores = scores + self.config.itc_weight * shares
        if sequence is not None:
            embeds, judged = output.sticker_embeds, candidates
            if match_best is not None and match_best < candidates.shape[1]:
                # Of equals the lower position, as wherever candidates are put in order.
                order = output.contrastive_logits.sort(dim=-1, descending=True, stable=True).indices
                judged = candidates.scatter(1, order[:, match_best:], -1)
                scores = torch.where(judged < 0, shares - 1, scores)
                used, judged = _places_among(judged)
                sequence, embeds = sequence.of(used), embeds[used]
            output.match_logits, output.candidate_emotion_logits = self._judge(
                self._with_words(sequence), judged, embeds
            )
            if output.match_logits is not None:
                match = output.match_logits.float().softmax(-1)[..., 1]
                scores = scores + match.masked_fill(judged < 0, 0.0)
        output.scores = scores.masked_fill(~real, float("-inf"))

    def _judge(
        self, sequence: _Sequence, candidates: Tensor, sticker_embeds: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Judge all candidates (B, N): match (B, N, 2), emotion (B, N, C), zero on padding."""
        real = candidates >= 0
        dialogues = torch.nonzero(real)[:, 0]
        stickers = candidates[real]
        size = self._pairs_a_pass(sequence, candidates.device)
        passes = [
            self._fuse(sequence, *pairs, sticker_embeds[pairs[1]])
            for pairs in zip(dialogues.split(size), stickers.split(size), strict=True)
        ]
        match, emotion = (
            None if parts[0] is None else torch.cat(parts) for parts in zip(*passes, strict=True)
        )
        return _unflatten(match, real), _unflatten(emotion, real)

    def _pairs_a_pass(self, sequence: _Sequence, device: torch.device) -> int:
        if device.type != "cpu":
            return _PAIRS_A_PASS
        parts = [*sequence.dialogue, *([] if sequence.ocr is None else [sequence.ocr])]
        length = 2 + sum(mask.shape[1] for _, mask in parts)
        a_pair = 4 * length * self.config.fusion_intermediate_size
        return min(max(_CACHED_BYTES // a_pair, 1), _PAIRS_A_PASS)

    def _add_losses(
        self,
        output: CKSOutput,
        sequence: _Sequence | None,
        visual: Tensor | None,
        augmented: Tensor | None,
        positive: Tensor,
        negative: Tensor | None,
        positive_shares: Tensor | None,
        emotion_labels: Tensor | None,
        sticker_ids: Tensor,
    ) -> None:
        """Fill in the losses of section 4.4 and the right sticker's emotion logits."""
        config = self.config
        losses = []
        if sequence is not None:
            sequence = self._with_words(sequence)
            dialogues = torch.arange(len(positive), device=positive.device)
            stickers, features = positive, output.sticker_embeds[positive]
            if config.use_itm:
                # Right and negative stickers go through the encoder in one pass of 2B pairs.
                wrong = visual if config.negative_visual == "clip" else output.sticker_embeds
                dialogues = dialogues.repeat(2)
                stickers = torch.cat([positive, negative])
                features = torch.cat([features, wrong[negative]])
            match, emotion = self._fuse(sequence, dialogues, stickers, features)
            if match is not None:
                output.match_loss = match_loss(*match.float().chunk(2))
                losses.append(output.match_loss)
            if emotion is not None:
                output.emotion_logits = emotion[: len(positive)]
                output.emotion_loss = emotion_loss(
                    output.emotion_logits.float(), emotion_labels, _mean_labelled(emotion_labels)
                )
                losses.append(config.emotion_loss_weight * output.emotion_loss)
        if config.use_itc:
            output.contrastive_loss = contrastive_loss(
                _gather(output.dialogue_embeds.float()),
                _gather(output.sticker_embeds[positive].float()),
                self.logit_scale.float(),
                _gather(sticker_ids[positive]),
                _gather(positive_shares.float()).log() if config.logq_correction else None,
            )
            losses.append(output.contrastive_loss)
        if config.use_cim:
            output.triplet_loss = triplet_loss(
                visual[positive].float(),
                augmented[positive].float(),
                visual[negative].float(),
                config.triplet_margin,
            )
            losses.append(config.triplet_loss_weight * output.triplet_loss)
        output.loss = sum(losses)


def _places_among(stickers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct stickers of (B, N), and the place of each among them; -1 stays."""
    used, places = stickers.unique(return_inverse=True)
    if used[0] == -1:
        return used[1:], places - 1
    return used, places


def _unflatten(values: Tensor | None, real: Tensor) -> Tensor | None:
    """Put the values of the real pairs (P, ...) back to their places (B, N, ...)."""
    if values is None:
        return None
    placed = values.new_zeros(*real.shape, *values.shape[1:])
    placed[real] = values
    return placed


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _gather(values: Tensor) -> Tensor:
    """Join the rows of all processes, with gradient, so that contrast sees the global batch."""
    if not _several_processes():
        return values
    if values.requires_grad:
        from torch.distributed.nn.functional import all_gather

        return torch.cat(all_gather(values))
    rows = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, values.contiguous())
    return torch.cat(rows)


def _mean_labelled(labels: Tensor) -> Tensor | None:
    """Return the mean number of labelled samples a process has; None with one process."""
    if not _several_processes():
        return None
    count = (labels != -100).sum().float()
    dist.all_reduce(count)
    return count / dist.get_world_size()
