# SPDX-License-Identifier: Apache-2.0
"""The multimodal encoder: a transformer over words, features and sticker (section 4.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

# One type embedding a part of the sequence; the stickers of earlier turns are told apart by who
# sent them: the one about to send a sticker now, or the other.
PARTS = ("dialogue", "emotional", "ocr", "sticker", "own_history", "other_history")


class TokenEmbeddings(nn.Module):
    """BERT's (or RoBERTa's) embedding layer alone: words, positions, layer norm."""

    def __init__(self, bert_config):
        super().__init__()
        size = bert_config.hidden_size
        self.pad_token_id = bert_config.pad_token_id or 0
        # RoBERTa's family counts positions from behind the padding index.
        self.first_position = self.pad_token_id + 1 if "roberta" in bert_config.model_type else 0
        self.word_embeddings = nn.Embedding(
            bert_config.vocab_size, size, padding_idx=self.pad_token_id
        )
        self.position_embeddings = nn.Embedding(bert_config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(bert_config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=bert_config.layer_norm_eps)
        self.dropout = nn.Dropout(bert_config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embed right-padded tokens (R, L) into (R, L, hidden)."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        embeds = self.word_embeddings(input_ids)
        embeds = embeds + self.token_type_embeddings(torch.zeros_like(input_ids))
        embeds = embeds + self.position_embeddings(positions + self.first_position)
        return self.dropout(self.LayerNorm(embeds))


class FusionLayer(GradientCheckpointingLayer):
    """A pre-norm transformer layer on torch's scaled dot-product attention."""

    def __init__(self, config):
        super().__init__()
        size = config.fusion_hidden_size
        self.num_heads = config.fusion_num_heads
        self.dropout = config.fusion_dropout
        self.attention_norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.attention_output = nn.Linear(size, size)
        self.feed_forward_norm = nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(
            nn.Linear(size, config.fusion_intermediate_size),
            nn.GELU(),
            nn.Linear(config.fusion_intermediate_size, size),
        )

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor,
        places: Tensor | None = None,
        heads: Tensor | None = None,
    ) -> Tensor:
        """Apply the layer to P sequences of L places.

        Args:
            hidden: (P, L, width), or with `places` the real places alone, (M, width).
            attention_mask: (P, 1, 1, L), True at real places.
            places: (M,), where each of them stands among the P * L.
            heads: (P,), the first place of each sequence among the P * L (or the M); only their
                output is then computed, (P, width).
        """
        rows, length = attention_mask.shape[0], attention_mask.shape[-1]
        size = hidden.shape[-1]
        projected = self.query_key_value(self.attention_norm(hidden))
        if places is not None:
            # Attention alone wants rows of one length; nothing reads the zeros between.
            projected = projected.new_zeros(rows * length, 3 * size).index_copy(
                0, places, projected
            )
        query, key, value = projected.view(
            rows, length, 3, self.num_heads, size // self.num_heads
        ).permute(2, 0, 3, 1, 4)
        if heads is not None:
            query, hidden = query[:, :, :1], hidden.reshape(-1, size)[heads]
        mixed = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        mixed = mixed.transpose(1, 2).reshape(-1, size)
        if places is not None and heads is None:
            mixed = mixed[places]
        mixed = self.attention_output(mixed.view(hidden.shape))
        hidden = hidden + F.dropout(mixed, self.dropout, self.training)
        change = self.feed_forward(self.feed_forward_norm(hidden))
        return hidden + F.dropout(change, self.dropout, self.training)


class MultimodalEncoder(nn.Module):
    """Fuse a dialogue with a sticker and judge the pair: match and emotion (equation 12)."""

    def __init__(self, config):
        super().__init__()
        size = config.fusion_hidden_size
        bert_size = config.bert_config.hidden_size
        self.embeddings = TokenEmbeddings(config.bert_config)
        self.token_projection = nn.Linear(bert_size, size)
        self.emotional_projection = nn.Linear(config.embed_size, size)
        self.sticker_projection = nn.Linear(config.embed_size, size)
        self.part_embeddings = nn.Embedding(len(PARTS), size)
        self.head_token = nn.Parameter(torch.zeros(size))
        self.layers = nn.ModuleList(FusionLayer(config) for _ in range(config.fusion_num_layers))
        self.norm = nn.LayerNorm(size)
        self.match_head = nn.Linear(size, 2) if config.use_itm else None
        self.emotion_head = nn.Linear(size, config.num_labels) if config.use_emotion else None

    def embed_tokens(self, input_ids: Tensor, part: str) -> Tensor:
        """Embed the words of dialogues or stickers (R, L) into (R, L, width)."""
        return self._typed(self.token_projection(self.embeddings(input_ids)), part)

    def embed_dialogue(self, dialogue_embeds: Tensor) -> Tensor:
        """Embed h~_T (B, D) as one place of the sequence, (B, 1, width)."""
        return self._typed(self.emotional_projection(dialogue_embeds), "emotional")[:, None]

    def embed_stickers(self, visual: Tensor) -> Tensor:
        """Embed stickers' visual features (..., D) into (..., width)."""
        return self._typed(self.sticker_projection(visual), "sticker")

    def embed_history(self, visual: Tensor, own: Tensor) -> Tensor:
        """Embed the earlier turns' stickers (B, T, D) with who sent them (B, T)."""
        types = torch.where(own, PARTS.index("own_history"), PARTS.index("other_history"))
        return self.sticker_projection(visual) + self.part_embeddings(types)

    def forward(self, parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor | None, Tensor | None]:
        """Encode P pairs of dialogue and sticker.

        Args:
            parts: (embeds (P, L_part, width), mask (P, L_part)) for each part of the sequence;
                [HEAD] is put in front here. A masked place influences nothing.

        Returns:
            Match logits (P, 2) and emotion logits (P, C); None for a head that an ablation
            removed.
        """
        first, mask = parts[0]
        head = self.head_token.to(first.dtype).expand(first.shape[0], 1, -1)
        hidden = torch.cat([head, *(embeds for embeds, _ in parts)], dim=1)
        mask = torch.cat([mask.new_ones(mask.shape[0], 1), *(part for _, part in parts)], dim=1)
        mask = mask.bool()
        places = _real_places(mask)
        if places is None:
            heads = torch.arange(mask.shape[0], device=mask.device) * mask.shape[1]
        else:
            hidden = hidden.flatten(0, 1)[places]
            counts = mask.sum(1)
            heads = counts.cumsum(0) - counts
        attention_mask = mask[:, None, None, :]
        for layer in self.layers[:-1]:
            hidden = layer(hidden, attention_mask, places)
        # Of the last layer only [HEAD]'s output is read.
        pooled = self.norm(self.layers[-1](hidden, attention_mask, places, heads))
        match = self.match_head(pooled) if self.match_head is not None else None
        emotion = self.emotion_head(pooled) if self.emotion_head is not None else None
        return match, emotion

    def _typed(self, embeds: Tensor, part: str) -> Tensor:
        # Called, not indexed: a module whose weights are offloaded has them only in its forward.
        return embeds + self.part_embeddings(embeds.new_tensor(PARTS.index(part)).long())


def _real_places(mask: Tensor) -> Tensor | None:
    """Return where the real places stand among all of (P, L); None to go on with all of them.

    Dialogues differ in length, and the linear maps, nearly all of the work, need not see padding.
    """
    # Their number depends on the data, which no traced graph can follow.
    if torch.compiler.is_compiling() or bool(mask.all()):
        return None
    return mask.flatten().nonzero().squeeze(1)
