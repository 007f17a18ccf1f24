# SPDX-License-Identifier: Apache-2.0
"""IVE, the interventional visual feature extractor: VKD and CIM (section 4.2)."""

import math

import torch
from torch import Tensor, nn
from transformers import AutoModel
from transformers import initialization as init


def dct_matrix(size: int) -> Tensor:
    """Return the orthonormal DCT-II matrix C (size, size): C @ x is the DCT of a column x."""
    positions = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (positions[None, :] + 0.5) * positions[:, None])
    matrix *= math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def band_pass(size: int, low: float, high: float) -> Tensor:
    """Return H of equation 9 (size, size) over frequencies scaled to [0, 1): content is near 1."""
    frequency = torch.arange(size, dtype=torch.float64) / size
    squared = frequency[:, None] ** 2 + frequency[None, :] ** 2
    return (torch.exp(-squared / (2 * high**2)) - torch.exp(-squared / (2 * low**2))).float()


class ContentInvariantModule(nn.Module):
    """CIM: randomise the style of an image, its extreme frequencies, and keep its content."""

    def __init__(self, config):
        super().__init__()
        self.size = config.vision_config.image_size
        self.low, self.high = config.cim_low_threshold, config.cim_high_threshold
        self.noise_scale = config.cim_noise_scale
        self.mean, self.std = tuple(config.image_mean), tuple(config.image_std)
        self.register_buffer("dct", torch.empty(self.size, self.size), persistent=False)
        self.register_buffer("style", torch.empty(self.size, self.size), persistent=False)
        self.register_buffer("image_mean", torch.empty(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.empty(3, 1, 1), persistent=False)

    def fill_buffers(self) -> None:
        """Fill the constants; loading replaces what `__init__` put there by raw memory."""
        init.copy_(self.dct, dct_matrix(self.size))
        init.copy_(self.style, 1 - band_pass(self.size, self.low, self.high))
        init.copy_(self.image_mean, torch.tensor(self.mean).view(3, 1, 1))
        init.copy_(self.image_std, torch.tensor(self.std).view(3, 1, 1))

    def forward(self, pixel_values: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return CLIP-normalised pixels (S, 3, n, n) of equation 10's augmented images I^.

        Args:
            pixel_values: (S, 3, n, n), normalised as CLIP wants.
            noise: (S, 3, n, n), the standard normal eps; drawn afresh unless given. With zero
                noise the image comes back as it was.
        """
        images = pixel_values * self.image_std + self.image_mean
        if noise is None:
            noise = torch.randn_like(images)
        # H F + (1 - H) F (1 + eps) = F + (1 - H) F eps, so only the style part is transformed
        # back and the content is the image itself, to the last bit.
        spectrum = self.dct @ images @ self.dct.T
        randomised = self.style * spectrum * (self.noise_scale * noise)
        augmented = (images + self.dct.T @ randomised @ self.dct).clamp(0, 1)
        return (augmented - self.image_mean) / self.image_std


class VisualKnowledgeDeconfounder(nn.Module):
    """VKD: backdoor adjustment over the words of emotional preference (equations 7 and 8)."""

    def __init__(self, config):
        super().__init__()
        words = len(config.dictionary_words)
        self.form = config.vkd_form
        self.register_buffer("dictionary", torch.zeros(words, config.dictionary_size))
        prior = config.dictionary_prior or [1 / words] * words
        self.register_buffer("prior", torch.tensor(prior, dtype=torch.float32))
        # BERT-base and CLIP ViT-B/32 share their size, so the paper needs no map; others do.
        self.dictionary_projection = (
            nn.Linear(config.dictionary_size, config.embed_size, bias=False)
            if config.dictionary_size != config.embed_size
            else nn.Identity()
        )
        self.fc = nn.Linear(config.embed_size, config.embed_size)

    def forward(self, visual: Tensor) -> Tensor:
        """Map CLIP's features v (S, D) to the deconfounded v~ (S, D)."""
        words = self.dictionary_projection(self.dictionary.to(visual.dtype))
        if self.form == "feature_softmax":
            return self.fc(visual @ words.T @ words).softmax(-1)
        # softmax(scores) P(w) / Z, with the prior inside the exponent: a softmax that rounds to
        # zero wherever the prior is not would leave nothing to divide by.
        scores = visual @ words.T * visual.shape[-1] ** -0.5
        weights = (scores + self.prior.to(visual.dtype).log()).softmax(-1)
        return self.fc(weights @ words)


class VisualExtractor(nn.Module):
    """Encode stickers by CLIP and deconfound them into the unbiased feature v."""

    def __init__(self, config):
        super().__init__()
        self.clip = AutoModel.from_config(config.vision_config)
        hidden = config.vision_config.hidden_size
        self.clip_projection = (
            nn.Linear(hidden, config.embed_size) if hidden != config.embed_size else nn.Identity()
        )
        self.use_vkd, self.use_cim = config.use_vkd, config.use_cim
        if config.use_vkd:
            self.vkd = VisualKnowledgeDeconfounder(config)
        if config.use_cim:
            self.cim = ContentInvariantModule(config)
        parts = int(config.use_vkd) + int(config.use_cim)
        self.output = nn.Linear(parts * config.embed_size, config.embed_size)

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Return CLIP's class-token features (S, hidden) of normalised pixels (S, 3, n, n)."""
        return self.clip(pixel_values=pixel_values).pooler_output

    def unbiased(self, visual: Tensor, augmented: Tensor) -> Tensor:
        """Fuse v~ and v^ into the unbiased feature v (S, D) of section 4.2.3."""
        parts = [self.vkd(visual)] if self.use_vkd else []
        if self.use_cim:
            parts.append(augmented)
        return self.output(torch.cat(parts, dim=-1))

    def forward(
        self, pixel_values: Tensor | None, clip_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode distinct stickers (S, 3, n, n).

        Args:
            pixel_values: (S, 3, n, n), as CLIP wants them; may be None with `clip_embeds` where
                no style is redrawn.
            clip_embeds: (S, hidden), CLIP's class-token features where they are known.

        Returns:
            CLIP's feature, the feature v^ with the style randomised, and the unbiased feature,
            each (S, D). In evaluation the noise is its mean, zero: v^ is CLIP's feature itself
            and the image is encoded once.
        """
        if clip_embeds is None:
            clip_embeds = self.encode_images(pixel_values)
        visual = augmented = self.clip_projection(clip_embeds)
        if self.use_cim and self.training:
            augmented = self.clip_projection(self.encode_images(self.cim(pixel_values)))
        return visual, augmented, self.unbiased(visual, augmented)
