# SPDX-License-Identifier: Apache-2.0
"""Features of utterances under an encoder that does not change: each is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .modeling_cks import CKSModel
from .processing_cks import CKSProcessor

_ENCODED_A_PASS = 512


class UtteranceFeatures:
    """Give r of distinct utterances, encoding only those that were not met before.

    Valid as long as the utterance encoder's weights are: through one evaluation, or through a
    whole training that leaves the encoder frozen. 20,000 utterances of size 768 take 60 MiB.

    Args:
        model: whose utterance encoder encodes; it runs in evaluation mode.
        processor: its processor.
    """

    def __init__(self, model: CKSModel, processor: CKSProcessor):
        self.model = model
        self.processor = processor
        self._known: dict[tuple[int, str], Tensor] = {}

    @torch.no_grad()
    def __call__(
        self,
        said: Sequence[tuple[int, str]],
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """Return r (U, D_text), on the CPU, of U (speaker, text)."""
        missing = [each for each in dict.fromkeys(said) if each not in self._known]
        if missing:
            encoder = self.model.text_encoder
            training = encoder.training
            encoder.eval()
            try:
                for start in range(0, len(missing), _ENCODED_A_PASS):
                    part = missing[start : start + _ENCODED_A_PASS]
                    tokens = self.processor.encode_utterances(part)
                    embeds = self.model.encode_utterances(
                        tokens["utterance_input_ids"].to(self.model.device),
                        tokens["utterance_attention_mask"].to(self.model.device),
                    ).cpu()
                    self._known.update(zip(part, embeds, strict=True))
                    if progress is not None:
                        progress(len(part))
            finally:
                encoder.train(training)
        return torch.stack([self._known[each] for each in said])
