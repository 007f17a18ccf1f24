# SPDX-License-Identifier: Apache-2.0
"""Configuration of CKS, the causal knowledge-enhanced sticker selection model."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

# Ekman's six emotions: the words of the confounder dictionary W (section 4.2.1).
EMOTION_WORDS = ("surprise", "happiness", "disgust", "fear", "sadness", "anger")

VKD_FORMS = ("feature_softmax", "dictionary_softmax")
NEGATIVE_VISUALS = ("clip", "unbiased")

# What a saved folder says about the code that lies in it, for those without the package.
_AUTO_MAP = {
    "AutoConfig": "configuration_cks.CKSConfig",
    "AutoModel": "modeling_cks.CKSModel",
    "AutoProcessor": "processing_cks.CKSProcessor",
}
_CUSTOM_PIPELINES = {
    "sticker-selection": {
        "impl": "pipeline_cks.StickerSelectionPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}


@strict
class CKSConfig(PreTrainedConfig):
    r"""Hold every size, switch and loss weight of a [`CKSModel`]; defaults are the paper's sizes.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            The utterance encoder (RoBERTa-base unless given).
        bert_config (`PreTrainedConfig` or `dict`, *optional*):
            The BERT whose embedding layer reads the dialogue's and the sticker's words in the
            multimodal encoder (BERT-base unless given).
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            CLIP's visual encoder (ViT-B/32 unless given).
        embed_size (`int`, defaults to 768):
            D, the size of the dialogue's and the sticker's features that contrast aligns.
        use_keue, use_vkd, use_cim, use_itc, use_itm, use_emotion, use_ocr (`bool`):
            The seven ablations of the paper's Table 2: what is set to False is removed.
        use_knowledge (`bool`, defaults to `True`):
            Whether KEUE reads COMET's features; without it the attention sees utterances alone.
        text_dropout (`float`, defaults to 0):
            The share of training samples whose words are hidden, so that COMET's knowledge of what
            was said has to speak for them. Words that training repeats are learnt by heart, and
            what COMET knows of other words is never needed; without COMET nothing is hidden.
        sticker_history (`bool`):
            Whether the stickers of the dialogue's earlier turns are read (MOD keeps them in the
            dialogue; the paper does not say that CKS looks at them).
        joint_attention (`bool`):
            One softmax over utterances of both speakers (as in CauAIN) instead of one for each.
        vkd_form (`"feature_softmax"` or `"dictionary_softmax"`):
            Where equation 8's softmax runs: over the D features, as printed, or over the words.
        negative_visual (`"clip"` or `"unbiased"`):
            What the multimodal encoder sees of a negative sticker: CLIP's feature, as printed, or
            the unbiased feature which every candidate has at inference.
        logq_correction (`bool`):
            Whether contrast takes off how often a sticker turns up in a batch. Popular stickers
            are negatives as often as they are right, so plain contrast learns to forget how
            popular they are, while the candidates at inference are drawn evenly.

    The emotions are `id2label`, as in every classifier of the library.

    Raises:
        ValueError: if a field is unknown.
        StrictDataclassError: if a field is of the wrong type or contradicts another.

    Example:
        ```python
        >>> from modeling_cks import CKSConfig
        >>> CKSConfig(num_labels=48).embed_size
        768

        ```
    """

    model_type = "cks"
    # The code travels with what is saved.
    _auto_class: ClassVar[str] = "AutoConfig"
    sub_configs_defaults = {  # noqa: RUF012 (the library's own idiom)
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="roberta"),
        "bert_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
    }

    # The encoders that come pretrained.
    text_config: PreTrainedConfig | dict | None = None
    bert_config: PreTrainedConfig | dict | None = None
    vision_config: PreTrainedConfig | dict | None = None

    # D, shared by h~_T and v.
    embed_size: int = 768

    # KEUE, section 4.1. The LSTM runs both ways, so an utterance's state has twice this size.
    use_keue: bool = True
    use_knowledge: bool = True
    knowledge_size: int = 1024
    text_dropout: float = 0.0
    lstm_hidden_size: int = 300
    joint_attention: bool = False
    sticker_history: bool = True

    # IVE, section 4.2.
    use_vkd: bool = True
    vkd_form: str = "dictionary_softmax"
    dictionary_words: list[str] | tuple[str, ...] = EMOTION_WORDS
    dictionary_size: int = 768
    dictionary_prior: list[float] | tuple[float, ...] | None = None
    use_cim: bool = True
    cim_low_threshold: float = 0.005
    cim_high_threshold: float = 0.7
    cim_noise_scale: float = 1.0
    triplet_margin: float = 0.2
    image_mean: list[float] | tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: list[float] | tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)

    # The multimodal encoder, section 4.3.
    fusion_hidden_size: int = 512
    fusion_num_layers: int = 12
    fusion_num_heads: int = 8
    fusion_intermediate_size: int = 2048
    fusion_dropout: float = 0.1
    use_ocr: bool = True

    # Losses, section 4.4. A loss that an ablation removes has no weight to set to zero.
    use_itc: bool = True
    use_itm: bool = True
    use_emotion: bool = True
    emotion_loss_weight: float = 0.5
    triplet_loss_weight: float = 0.3
    negative_visual: str = "unbiased"
    logq_correction: bool = True
    logit_scale_init_value: float = 2.6592

    # Inference: score = itc_weight * softmax(contrastive logits) + P(match).
    itc_weight: float = 1.0

    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        unknown = sorted(set(kwargs) - _accepted_by_library())
        if unknown:
            raise ValueError(f"CKSConfig has no field named {', '.join(map(repr, unknown))}")
        if not __name__.startswith("transformers_modules."):
            # The package has registered its pipeline. Where a configuration names another, the
            # library takes that one and refuses to go on without trust_remote_code.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def save_pretrained(self, save_directory, push_to_hub=False, **kwargs):
        """Save the configuration and its code, and name the code of model and processor."""
        self.auto_map = dict(_AUTO_MAP)
        self.custom_pipelines = _CUSTOM_PIPELINES
        for name in self.sub_configs_defaults:
            getattr(self, name).dtype = self.dtype  # as loading sets it
        try:
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        finally:
            # Left in, they would send `pipeline` and `AutoModel.from_config` after remote code.
            del self.auto_map, self.custom_pipelines

    @property
    def utterance_state_size(self) -> int:
        """2d: the size of an utterance's state after the bidirectional LSTM."""
        return 2 * self.lstm_hidden_size

    @property
    def needs_fusion(self) -> bool:
        """Whether anything reads the multimodal encoder's output."""
        return self.use_itm or self.use_emotion

    def validate_choices(self) -> None:
        """Check the fields that take one of a few names."""
        if self.vkd_form not in VKD_FORMS:
            raise ValueError(f"vkd_form must be one of {VKD_FORMS}, not {self.vkd_form!r}")
        if self.negative_visual not in NEGATIVE_VISUALS:
            raise ValueError(
                f"negative_visual must be one of {NEGATIVE_VISUALS}, not {self.negative_visual!r}"
            )

    def validate_text_dropout(self) -> None:
        """Check that some samples keep their words."""
        if not 0 <= self.text_dropout < 1:
            raise ValueError(f"text_dropout must be in [0, 1), not {self.text_dropout}")

    def validate_visual(self) -> None:
        """Check IVE: some visual feature is left, and the dictionary's prior is a distribution."""
        if not (self.use_vkd or self.use_cim):
            raise ValueError("use_vkd and use_cim are both False: no visual feature is left")
        if not 0 < self.cim_low_threshold < self.cim_high_threshold:
            raise ValueError(
                "cim_low_threshold must be positive and below cim_high_threshold, not "
                f"{self.cim_low_threshold} and {self.cim_high_threshold}"
            )
        prior = self.dictionary_prior
        if prior is not None:
            if len(prior) != len(self.dictionary_words):
                raise ValueError(
                    f"dictionary_prior has {len(prior)} values for "
                    f"{len(self.dictionary_words)} dictionary_words"
                )
            if min(prior) < 0 or abs(sum(prior) - 1) > 1e-4:
                raise ValueError("dictionary_prior must be non-negative and sum to 1")

    def validate_ranking(self) -> None:
        """Check that something is left to rank with."""
        if not (self.use_itc or self.use_itm):
            raise ValueError("use_itc and use_itm are both False: nothing is left to rank with")

    def validate_architecture(self) -> None:
        """Check that the attention heads divide the multimodal encoder's width."""
        if self.fusion_hidden_size % self.fusion_num_heads:
            raise ValueError(
                f"fusion_hidden_size ({self.fusion_hidden_size}) is not a multiple of "
                f"fusion_num_heads ({self.fusion_num_heads})"
            )


def _accepted_by_library() -> set[str]:
    """Names that the library itself puts into a configuration beside the declared fields."""
    return set(PreTrainedConfig().to_dict()) | {
        "_attn_implementation",
        "attn_implementation",
        "_commit_hash",
        "_from_auto",
        "_name_or_path",
        "_output_attentions",
        "_output_hidden_states",
        "auto_map",
        "custom_pipelines",
        "architectures",
        "dtype",
        "experts_implementation",
        "name_or_path",
        "num_labels",
        "torch_dtype",
        "transformers_version",
        "quantization_config",
        "use_cache",  # which the Trainer sets on every model that it trains
    }
