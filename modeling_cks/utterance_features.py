# SPDX-License-Identifier: Apache-2.0
"""Features of utterances under an encoder that does not change: each is encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .modeling_cks import CKSModel
from .processing_cks import CKSProcessor

_ENCODED_A_PASS = 512


class UtteranceFeatures:
    """Give r of distinct utterances, encoding only those that were not met before.

    Valid as long as the utterance encoder's weights are: through one evaluation or conversation,
    or through a whole training that leaves the encoder frozen.

    Args:
        model: whose utterance encoder encodes; it runs in evaluation mode.
        processor: its processor.
        remembered: how many utterances are kept, those used last; None keeps all. The default
            takes 48 MiB at a size of 768, and holds far more than the neighbouring samples of an
            evaluation share.
    """

    def __init__(self, model: CKSModel, processor: CKSProcessor, remembered: int | None = 16_384):
        self.model = model
        self.processor = processor
        self.remembered = remembered
        self._known: OrderedDict[tuple[int, str], Tensor] = OrderedDict()

    @torch.no_grad()
    def __call__(
        self,
        said: Sequence[tuple[int, str]],
        progress: Callable[[int], object] | None = None,
    ) -> Tensor:
        """Return r (U, D_text), on the CPU, of U (speaker, text)."""
        found = {each: self._known.get(each) for each in said}
        missing = [each for each, embed in found.items() if embed is None]
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
                    found.update(zip(part, embeds.unbind(), strict=True))
                    if progress is not None:
                        progress(len(part))
            finally:
                encoder.train(training)
        for each, embed in found.items():
            self._known[each] = embed
            self._known.move_to_end(each)
        while self.remembered is not None and len(self._known) > self.remembered:
            self._known.popitem(last=False)
        return torch.stack([found[each] for each in said])
