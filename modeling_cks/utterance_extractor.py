# SPDX-License-Identifier: Apache-2.0
"""KEUE, the knowledge-enhanced emotional utterance extractor (section 4.1)."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def allowed_utterances(speaker_ids: Tensor, utterance_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Say which utterance j may inform utterance i, by the same and by the other speaker.

    Args:
        speaker_ids: (B, T), 0 or 1.
        utterance_mask: (B, T), True for real utterances.

    Returns:
        Two (B, T, T) boolean masks: the same speaker with j <= i, and the other with j < i.
    """
    size = speaker_ids.shape[1]
    past = torch.ones(size, size, dtype=torch.bool, device=speaker_ids.device).tril()
    real = utterance_mask[:, :, None] & utterance_mask[:, None, :]
    same = speaker_ids[:, :, None] == speaker_ids[:, None, :]
    return real & past & same, real & past & ~same


def masked_softmax(scores: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over the allowed entries of the last dimension; a row with none is all zero."""
    # An empty row is left unmasked before the softmax: a softmax over -inf alone is NaN, and its
    # gradient poisons the whole batch even where the value is replaced afterwards.
    hidden = ~allowed & allowed.any(-1, keepdim=True)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return weights.masked_fill(~allowed, 0.0)


class UtteranceExtractor(nn.Module):
    """Turn utterance features into the dialogue's emotional representation h~_T.

    With `use_keue=False` (the paper's ablation) only the LSTM and one linear map are left.
    """

    def __init__(self, config):
        super().__init__()
        state = config.utterance_state_size
        self.joint_attention = config.joint_attention
        self.lstm = nn.LSTM(
            config.text_config.hidden_size,
            config.lstm_hidden_size,
            batch_first=True,
            bidirectional=True,
        )
        self.use_keue = config.use_keue
        if not config.use_keue:
            self.state_projection = nn.Linear(state, config.embed_size)
            return
        self.query = nn.Linear(state, state)  # F_q
        self.key = nn.Linear(state, state)  # F_k
        self.use_knowledge = config.use_knowledge
        if config.use_knowledge:
            self.intra_gate = nn.Linear(config.knowledge_size, state)  # W_a, b_a
            self.inter_gate = nn.Linear(config.knowledge_size, state)  # W_e, b_e
            self.knowledge = nn.Linear(state, state)  # F_e
        self.mlp = nn.Sequential(
            nn.Linear(2 * state, state), nn.GELU(), nn.Linear(state, config.embed_size)
        )

    def forward(
        self,
        utterance_embeds: Tensor,
        utterance_mask: Tensor,
        speaker_ids: Tensor,
        knowledge: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Extract h~_T and how emotional each utterance is to the present turn.

        Args:
            utterance_embeds: (B, T, D_text), r_i, padded on the right.
            utterance_mask: (B, T), True for real utterances; at least one in each row.
            speaker_ids: (B, T), 0 or 1.
            knowledge: (B, T, 2, knowledge_size), the sums of COMET's features over the x
                relations and over the o relations (equation 2).

        Returns:
            h~_T (B, D) and the weights s^a_Tj + s^e_Tj (B, T), zero on padding; the weights are
            None without KEUE.
        """
        states = self.encode_states(utterance_embeds, utterance_mask)
        last = utterance_mask.sum(1) - 1
        rows = torch.arange(last.shape[0], device=last.device)
        if not self.use_keue:
            return self.state_projection(states[rows, last]), None

        queries = self.query(states)
        intra_keys = inter_keys = self.key(states)
        if self.use_knowledge:
            intra_sum, inter_sum = knowledge.to(states.dtype).unbind(2)
            intra_keys = intra_keys + self.knowledge(torch.sigmoid(self.intra_gate(intra_sum)))
            inter_keys = inter_keys + self.knowledge(torch.sigmoid(self.inter_gate(inter_sum)))
        intra, inter = self.attend(queries, intra_keys, inter_keys, speaker_ids, utterance_mask)

        said = (intra + inter) @ queries  # h^, equation 4
        known = intra @ intra_keys + inter @ inter_keys  # g^, equation 5
        dialogue = torch.cat([said[rows, last], known[rows, last]], dim=-1)
        return self.mlp(dialogue), (intra + inter)[rows, last]  # equation 6

    def encode_states(self, utterance_embeds: Tensor, utterance_mask: Tensor) -> Tensor:
        """Run the bidirectional LSTM of equation 1 over real utterances only: (B, T, 2d)."""
        packed = pack_padded_sequence(
            utterance_embeds,
            utterance_mask.sum(1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        states, _ = pad_packed_sequence(
            self.lstm(packed)[0], batch_first=True, total_length=utterance_embeds.shape[1]
        )
        return states

    def attend(
        self,
        queries: Tensor,
        intra_keys: Tensor,
        inter_keys: Tensor,
        speaker_ids: Tensor,
        utterance_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute s^a and s^e of equation 3, each (B, T, T); rows with nothing allowed are zero."""
        scale = queries.shape[-1] ** -0.5
        intra_scores = queries @ intra_keys.transpose(1, 2) * scale
        inter_scores = queries @ inter_keys.transpose(1, 2) * scale
        intra_allowed, inter_allowed = allowed_utterances(speaker_ids, utterance_mask)
        if not self.joint_attention:
            return (
                masked_softmax(intra_scores, intra_allowed),
                masked_softmax(inter_scores, inter_allowed),
            )
        # The two masks never overlap, so one softmax over the union is split by them again.
        scores = torch.where(intra_allowed, intra_scores, inter_scores)
        weights = masked_softmax(scores, intra_allowed | inter_allowed)
        return weights.masked_fill(~intra_allowed, 0.0), weights.masked_fill(~inter_allowed, 0.0)
