# SPDX-License-Identifier: Apache-2.0
"""Build a CKS model and its processor from pretrained encoders, or from scratch without them.

Everything here runs once, before training. What it builds is saved with `save_pretrained` and then
stands alone: a published checkpoint needs none of the checkpoints that it was built from.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from .configuration_cks import EMOTION_WORDS, CKSConfig
from .modeling_cks import CKSModel
from .processing_cks import SPEAKER_TOKENS, CKSProcessor

logger = logging.getLogger(__name__)

OPEN_CLIP_PREFIX = "open_clip:"
# What CLIP normalises images with, for a checkpoint that brings no preprocessor settings.
_CLIP_MEAN = CKSConfig.image_mean
_CLIP_STD = CKSConfig.image_std

# Sizes of what is trained from scratch unless the caller gives others: small enough for a CPU.
_SCRATCH_TEXT = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 512,
}
_SCRATCH_VISION = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "image_size": 96,
    "patch_size": 16,
    "hidden_act": "gelu",
}
_SCRATCH_VOCABULARY = 8000


def build(
    *,
    emotions: Sequence[str],
    text: str | os.PathLike | None = None,
    bert: str | os.PathLike | None = None,
    vision: str | os.PathLike | None = None,
    comet: str | os.PathLike | None = None,
    texts: Iterable[str] = (),
    text_config: Mapping[str, Any] | None = None,
    bert_config: Mapping[str, Any] | None = None,
    vision_config: Mapping[str, Any] | None = None,
    processor_options: Mapping[str, Any] | None = None,
    **config_overrides: Any,
) -> tuple[CKSModel, CKSProcessor]:
    """Build a model and its processor; what is not pretrained is drawn from torch's generator.

    Args:
        emotions: names of the emotions in the order of their class numbers.
        text: utterance encoder, a RoBERTa- or BERT-type checkpoint (see `load_text`).
        bert: the BERT whose embedding layer reads words in the multimodal encoder and whose
            output makes the dictionary of emotions (see `load_text`).
        vision: CLIP's visual encoder (see `load_vision`).
        comet: name or folder of a COMET checkpoint. Without one, `use_knowledge=False` or an
            explicit `knowledge_size` (features that come from elsewhere) must be given.
        texts: what a tokenizer is trained on where `text` or `bert` is None.
        text_config: fields of the encoder's configuration where `text` is None, e.g.
            `{"model_type": "roberta", "hidden_size": 768}`; `vocab_size` bounds the trained
            vocabulary and is the number of embeddings.
        bert_config: the same where `bert` is None.
        vision_config: fields of `CLIPVisionConfig` where `vision` is None.
        processor_options: further arguments of `CKSProcessor`, e.g. `{"ocr": "none"}`.
        **config_overrides: fields of `CKSConfig`; those that the backbones settle are refused.

    Returns:
        The model, in evaluation mode and float32, and its processor.

    Raises:
        ValueError: a checkpoint that cannot be loaded or does not fit, or settings that
            contradict each other; in one line.

    Example:
        >>> model, processor = build(
        ...     emotions=["joy", "anger"],
        ...     text="roberta-base",
        ...     bert="bert-base-uncased",
        ...     vision="openai/clip-vit-base-patch32",
        ...     comet="path/to/comet",
        ... )  # doctest: +SKIP
    """
    texts = list(texts)
    text_model, tokenizer = _text_side("text", text, text_config, texts)
    bert_model, bert_tokenizer = _text_side("bert", bert, bert_config, texts)
    vision_model, image_processor = _vision_side(vision, vision_config)
    fields: dict[str, Any] = {
        # Copies: the whole model's choice of attention must not reach back into the sources.
        "text_config": copy.deepcopy(text_model.config),
        "bert_config": copy.deepcopy(bert_model.config),
        "vision_config": copy.deepcopy(vision_model.config),
        "dictionary_size": bert_model.config.hidden_size,
        "image_mean": list(image_processor.image_mean),
        "image_std": list(image_processor.image_std),
        "id2label": dict(enumerate(emotions)),
        "label2id": {name: number for number, name in enumerate(emotions)},
    }
    if comet is not None:
        fields["knowledge_size"] = _comet_size(comet)
    elif config_overrides.get("use_knowledge", True) and "knowledge_size" not in config_overrides:
        raise ValueError(
            "the model takes knowledge: give comet= a COMET-BART name or folder, or "
            "use_knowledge=False to build one without it"
        )
    settled = sorted(fields.keys() & config_overrides.keys())
    if settled:
        raise ValueError(f"the backbones settle {', '.join(settled)}: leave it out")
    config = CKSConfig(**fields, **config_overrides)

    model = CKSModel(config)
    _copy(text_model, model.text_encoder, "text encoder")
    _copy(vision_model, model.visual_extractor.clip, "vision encoder")
    if config.needs_fusion:
        _copy(bert_model.embeddings, model.multimodal_encoder.embeddings, "BERT embeddings")
    if config.use_vkd:
        words = emotion_dictionary(bert_model, bert_tokenizer, config.dictionary_words)
        model.visual_extractor.vkd.dictionary.copy_(words)

    processor = CKSProcessor(
        image_processor,
        tokenizer,
        bert_tokenizer,
        comet=comet,
        knowledge_size=config.knowledge_size,
        **dict(processor_options or {}),
    )
    _check_lengths(config, processor)
    counts = parameter_counts(model)
    logger.info("parameters: %s", ", ".join(f"{part} {n:,}" for part, n in counts.items()))
    return model.eval(), processor


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Count the parameters of each part of a model, and of all of it, each once, under `total`."""
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    own = sum(p.numel() for p in model.parameters(recurse=False))
    return {
        **counts,
        **({"own": own} if own else {}),
        "total": sum(p.numel() for p in model.parameters()),
    }


def load_text(name_or_path: str | os.PathLike) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a RoBERTa- or BERT-type encoder and its tokenizer, and teach both the two speakers.

    `[speaker1]` and `[speaker2]` become special tokens; each starts as the mean of the known
    tokens' embeddings. The pooler, which CKS never reads, is dropped.

    Raises:
        ValueError: it cannot be loaded, weights are missing or left over, or it is no encoder of
            this type; in one line that says what to give.
    """
    name = os.fspath(name_or_path)
    wanted = f"text encoder {name!r}: give the folder or Hub name of a RoBERTa or BERT checkpoint"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model, info = AutoModel.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{wanted} ({_first_line(error)})") from error
    if tokenizer.cls_token_id is None or tokenizer.pad_token_id is None:
        raise ValueError(f"{wanted} (this tokenizer has no [CLS] or no padding token)")
    if model.config.is_encoder_decoder or not hasattr(model, "embeddings"):
        raise ValueError(f"{wanted} (this is a {model.config.model_type} model)")
    check_loaded(model, info, wanted, may_miss="pooler.")
    model.pooler = None
    _add_speakers(model, tokenizer)
    return model.eval(), tokenizer


def load_vision(name_or_path: str | os.PathLike) -> tuple[CLIPVisionModel, CLIPImageProcessor]:
    """Load CLIP's visual encoder and its image processor.

    Args:
        name_or_path: folder or Hub name of a `CLIPModel`, `CLIPVisionModel` or
            `CLIPVisionModelWithProjection`; or an open_clip model, which is converted:
            `open_clip:ViT-B-32/laion2b_s34b_b79k` (a tag), `open_clip:ViT-B-32:/path/file.bin`
            (weights in a file), `open_clip:hf-hub:NAME` or `open_clip:local-dir:FOLDER`.

    Raises:
        ValueError: it cannot be loaded, or weights are missing or left over; in one line that
            says what to give.
    """
    name = os.fspath(name_or_path)
    if name.startswith(OPEN_CLIP_PREFIX):
        return convert_open_clip_vision(*_parse_open_clip(name))
    wanted = f"vision encoder {name!r}: give a CLIP folder or Hub name, or open_clip:MODEL/TAG"
    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind not in ("clip", "clip_vision_model"):
            raise ValueError(f"this is a {kind} model")
        model, info = CLIPVisionModel.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f"{wanted} ({_first_line(error)})") from error
    check_loaded(model, info, wanted)
    try:
        image_processor = CLIPImageProcessor.from_pretrained(name)
    except OSError:
        logger.warning("%s brings no image processor settings: CLIP's own are taken", name)
        image_processor = _image_processor(model.config.image_size)
    size = model.config.image_size
    cut = image_processor.crop_size
    if (cut["height"], cut["width"]) != (size, size):
        raise ValueError(
            f"vision encoder {name!r} takes images of {size} by {size}, but its preprocessor "
            f"gives {cut['height']} by {cut['width']}"
        )
    return model.eval(), image_processor


def convert_open_clip_vision(
    model_or_name: nn.Module | str, pretrained: str | None = None
) -> tuple[CLIPVisionModel, CLIPImageProcessor]:
    """Convert the visual trunk of an open_clip model into transformers' `CLIPVisionModel`.

    The pooled output equals open_clip's class token after the final layer norm, before the
    projection into the joint space: CKS's v_p. The activation is read off the model's own layers,
    so OpenAI's weights, which open_clip switches to quick GELU, come out right as well.

    Args:
        model_or_name: a model made by open_clip, or the name of one.
        pretrained: tag or file of the weights where a name is given.

    Returns:
        The encoder in evaluation mode, and the image processor that the model was trained with.

    Raises:
        ValueError: open_clip is not installed or cannot load it, or its trunk is not a plain ViT
            with class-token pooling.
    """
    name = "the given model"
    if isinstance(model_or_name, str):
        name = model_or_name if pretrained is None else f"{model_or_name} ({pretrained})"
        model_or_name = _load_open_clip(model_or_name, pretrained)
    visual = model_or_name.visual
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or getattr(visual, "pool_type", None) != "tok":
        raise ValueError(
            f"open_clip model {name}: only a plain ViT with class-token pooling can be converted, "
            f"not {type(visual).__name__}"
        )
    (height, width), (patch, patch_width) = visual.image_size, visual.patch_size
    if height != width or patch != patch_width:
        raise ValueError(f"open_clip model {name}: images and patches must be square")
    hidden = visual.conv1.out_channels
    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=blocks[0].mlp.c_fc.out_features,
        projection_dim=visual.output_dim,
        num_hidden_layers=len(blocks),
        num_attention_heads=blocks[0].attn.num_heads,
        image_size=height,
        patch_size=patch,
        hidden_act=_activation(blocks[0].mlp.gelu, name),
        layer_norm_eps=visual.ln_post.eps,
    )
    model = CLIPVisionModel(config)
    try:
        model.load_state_dict(_renamed(visual.state_dict()), strict=True)
    except (KeyError, RuntimeError) as error:
        raise ValueError(
            f"open_clip model {name}: its trunk is no plain ViT ({_first_line(error)})"
        ) from error
    return model.eval(), _open_clip_processor(visual, height, name)


def emotion_dictionary(
    bert_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    words: Sequence[str] = EMOTION_WORDS,
) -> Tensor:
    """Make the dictionary W (len(words), hidden) of section 4.2.1: BERT's output for each word.

    A word's row is the mean of the last hidden states over its own sub-tokens in
    `[CLS] word [SEP]`; the two special tokens are not part of it.

    Raises:
        ValueError: a word has no token of its own.
    """
    bert_model = bert_model.eval()
    rows = []
    for word in words:
        tokens = tokenizer(word, return_tensors="pt", return_special_tokens_mask=True)
        own = ~tokens.pop("special_tokens_mask")[0].bool()
        if not own.any():
            raise ValueError(f"the tokenizer has no token for the emotion word {word!r}")
        inputs = {key: tokens[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            rows.append(bert_model(**inputs).last_hidden_state[0, own].mean(0))
    return torch.stack(rows)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = _SCRATCH_VOCABULARY
) -> PreTrainedTokenizerFast:
    """Train a lower-casing WordPiece tokenizer in BERT's manner, `[speaker1|2]` included.

    Args:
        texts: what it is trained on; Chinese characters stand for themselves.
        vocab_size: at most so many tokens, unless the texts have more characters.

    Raises:
        ValueError: there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers.trainers import WordPieceTrainer

    texts = list(texts)
    if not any(text.strip() for text in texts):
        raise ValueError("a tokenizer from scratch needs texts to be trained on (texts=...)")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *SPEAKER_TOKENS]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers "##x" as it meets it, walking the words in an order that changes from run
    # to run, and breaks ties by these numbers. Numbered beforehand, they make the same vocabulary
    # of the same texts every time.
    words = (w for t in texts for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(t)))
    inner = sorted({f"##{letter}" for word in words for letter in word[1:]})
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = normalizer, splitter
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*special, *inner], show_progress=False
    )
    trained.train_from_iterator(texts, trainer)

    # Anew from the vocabulary, since the trainer takes "##x" for special tokens now.
    vocabulary = trained.get_vocab()
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.add_tokens(_speaker_tokens(), special_tokens=True)
    return fast


def _text_side(
    side: str, name: str | os.PathLike | None, fields: Mapping[str, Any] | None, texts: list[str]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the text encoder called `side`, or draw one from scratch with a trained tokenizer."""
    if name is not None:
        if fields is not None:
            raise ValueError(f"{side}_config is for a {side} from scratch: {side}={name!r} has one")
        return load_text(name)
    fields = {**_SCRATCH_TEXT, **(fields or {})}
    tokenizer = train_tokenizer(texts, fields.get("vocab_size", _SCRATCH_VOCABULARY))
    fields["vocab_size"] = max(fields.get("vocab_size", 0), _vocabulary(tokenizer))
    config = AutoConfig.for_model(
        **fields,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    model = AutoModel.from_config(config)
    model.pooler = None
    return model, tokenizer


def _vision_side(
    name: str | os.PathLike | None, fields: Mapping[str, Any] | None
) -> tuple[CLIPVisionModel, CLIPImageProcessor]:
    if name is not None:
        if fields is not None:
            raise ValueError(f"vision_config is for a vision from scratch: {name!r} has one")
        return load_vision(name)
    config = CLIPVisionConfig(**{**_SCRATCH_VISION, **(fields or {})})
    return CLIPVisionModel(config), _image_processor(config.image_size)


def _speaker_tokens() -> list[AddedToken]:
    return [AddedToken(token, special=True, normalized=False) for token in SPEAKER_TOKENS]


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    return max(tokenizer.get_vocab().values()) + 1


def _add_speakers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    known = _vocabulary(tokenizer)
    vocabulary = tokenizer.get_vocab()
    new = [token for token in _speaker_tokens() if token.content not in vocabulary]
    tokenizer.add_tokens(new, special_tokens=True)
    embeddings = model.get_input_embeddings().weight
    mean = embeddings[:known].mean(0).detach().clone()
    # Some vocabularies are padded with spare rows: those are used before any is added.
    if _vocabulary(tokenizer) > len(embeddings):
        model.resize_token_embeddings(_vocabulary(tokenizer), mean_resizing=False)
    ids = [tokenizer.convert_tokens_to_ids(token.content) for token in new]
    with torch.no_grad():
        model.get_input_embeddings().weight[ids] = mean


def check_loaded(
    model: nn.Module, info: Mapping, wanted: str, may_miss: str | None = None
) -> None:
    """Refuse a load that invented weights or left a part of the encoder behind.

    Args:
        model: what `from_pretrained` gave.
        info: what it gave beside it with `output_loading_info=True`.
        wanted: the beginning of the message.
        may_miss: how the names of weights begin that may start anew.

    Raises:
        ValueError: naming one of the weights.
    """
    missing = [k for k in info["missing_keys"] if may_miss is None or not k.startswith(may_miss)]
    # Heads and the other tower are rightly left over; what belongs to a part that the model has
    # (say, a layer more than its configuration says) is not.
    parts = {name for name, _ in model.named_children()}
    left_over = [
        key
        for key in info["unexpected_keys"]
        if not key.startswith("text_model.") and parts & set(key.split(".")[:-1])
    ]
    wrong = [*missing, *left_over, *map(str, info["mismatched_keys"])]
    if wrong:
        what = "missing" if missing else "left over"
        raise ValueError(f"{wanted} ({len(wrong)} weights are {what}, e.g. {sorted(wrong)[0]})")


def _copy(source: nn.Module, target: nn.Module, what: str) -> None:
    """Copy all weights of `source` into `target`; none may be missing or left over."""
    try:
        target.load_state_dict(source.state_dict(), strict=True)
    except RuntimeError as error:
        raise ValueError(f"the {what} does not fit: {' '.join(str(error).split())}") from error


def _comet_size(comet: str | os.PathLike) -> int:
    name = os.fspath(comet)
    wanted = f"COMET {name!r}: give the folder or Hub name of a COMET-BART checkpoint"
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{wanted} ({_first_line(error)})") from error
    if not config.is_encoder_decoder:
        raise ValueError(f"{wanted} (this is a {config.model_type} model)")
    return config.hidden_size


def _check_lengths(config: CKSConfig, processor: CKSProcessor) -> None:
    """Refuse a processor that hands an encoder more tokens than it has positions for."""
    for field, part in (
        ("max_utterance_tokens", config.text_config),
        ("max_dialogue_tokens", config.bert_config),
        ("max_ocr_tokens", config.bert_config),
    ):
        positions = part.max_position_embeddings
        if "roberta" in part.model_type:
            positions -= part.pad_token_id + 1
        if getattr(processor, field) > positions:
            raise ValueError(
                f"{field} is {getattr(processor, field)}, but the {part.model_type} that reads "
                f"them has {positions} positions"
            )


def _image_processor(
    size: int,
    mean: Sequence[float] = _CLIP_MEAN,
    std: Sequence[float] = _CLIP_STD,
    resample: int = 3,
) -> CLIPImageProcessor:
    return CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(mean),
        image_std=list(std),
        resample=resample,
    )


def _parse_open_clip(name: str) -> tuple[str, str | None]:
    """Split `open_clip:...` into open_clip's model name and the tag or file of its weights."""
    rest = name.removeprefix(OPEN_CLIP_PREFIX)
    if rest.startswith(("hf-hub:", "local-dir:")):
        return rest, None
    for separator in (":", "/"):
        model, found, weights = rest.partition(separator)
        if found and model and weights:
            if separator == ":" and not os.path.isfile(weights):
                raise ValueError(f"vision encoder {name!r}: there is no file {weights}")
            return model, weights
    raise ValueError(
        f"vision encoder {name!r}: name the weights, open_clip:MODEL/TAG or open_clip:MODEL:FILE"
    )


def _load_open_clip(name: str, pretrained: str | None) -> nn.Module:
    try:
        import open_clip
    except ImportError as error:
        raise ValueError("open_clip is not installed: pip install open_clip_torch") from error
    try:
        return open_clip.create_model(name, pretrained=pretrained, require_pretrained=True)
    except Exception as error:  # open_clip raises whatever its loaders raise
        raise ValueError(
            f"open_clip model {name!r} with weights {pretrained!r}: {_first_line(error)}"
        ) from error


def _activation(module: nn.Module, name: str) -> str:
    if type(module).__name__ == "QuickGELU":
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu_pytorch_tanh" if module.approximate == "tanh" else "gelu"
    raise ValueError(f"open_clip model {name}: activation {type(module).__name__} is not known")


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give open_clip's visual weights transformers' names; the projection is left out."""
    names = {
        "conv1.weight": "embeddings.patch_embedding.weight",
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
    }
    parts = (
        ("transformer.resblocks.", "encoder.layers."),
        ("ln_pre.", "pre_layrnorm."),
        ("ln_post.", "post_layernorm."),
        (".ln_1.", ".layer_norm1."),
        (".ln_2.", ".layer_norm2."),
        (".attn.", ".self_attn."),
        (".c_fc.", ".fc1."),
        (".c_proj.", ".fc2."),
    )
    renamed = {}
    for key, value in state.items():
        if key == "proj":
            continue
        target = names.get(key, key)
        if key not in names:
            for old, new in parts:
                target = target.replace(old, new)
        if ".in_proj_" in target:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[target.replace("in_proj_", f"{part}_proj.")] = piece
        else:
            renamed[target] = value
    return renamed


def _open_clip_processor(visual: nn.Module, size: int, name: str) -> CLIPImageProcessor:
    settings = getattr(visual, "preprocess_cfg", None) or {}
    if settings.get("resize_mode", "shortest") != "shortest":
        raise ValueError(
            f"open_clip model {name}: images resized by {settings['resize_mode']!r} are not known"
        )
    return _image_processor(
        size,
        mean=settings.get("mean", _CLIP_MEAN),
        std=settings.get("std", _CLIP_STD),
        resample={"bicubic": 3, "bilinear": 2}[settings.get("interpolation", "bicubic")],
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
