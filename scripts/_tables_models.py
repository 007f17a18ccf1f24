# SPDX-License-Identifier: Apache-2.0
"""The rows of the paper's tables 1 and 2, and of one that asks what CKS lacks."""

from __future__ import annotations

from dataclasses import dataclass

REFERENCE = "cks"


@dataclass(frozen=True)
class Model:
    """A row of a table.

    Attributes:
        name: in files and on the command line.
        title: in the table.
        kind: `cks`, the kind of a baseline, or `yardstick`.
        changes: what is set in the recipe.
        weights: the checkpoint that it is published with, where text and vision do not make it up.
    """

    name: str
    title: str
    kind: str = "cks"
    changes: tuple[str, ...] = ()
    weights: str | None = None


def _without(part: str, field: str) -> Model:
    name = f"cks_without_{part.lower()}"
    return Model(name, f"w/o {part}", changes=(f"model.{field}=false",))


CKS = Model(REFERENCE, "CKS")
TABLE_1 = (
    Model("most_frequent", "most frequent sticker", "yardstick"),
    Model("bag_of_words", "bag of words", "yardstick"),
    Model("clip", "CLIP", "clip"),
    Model(
        "clip_dialogue", "CLIP (dialogue)", "clip", ("baselines.clip.settings.context=dialogue",)
    ),
    Model("vilt", "ViLT", "vilt", weights="dandelin/vilt-b32-mlm"),
    Model("mod_gpt", "MOD-GPT", "mod_gpt", weights="openai-community/gpt2"),
    Model("mmbert", "MMBERT", "mmbert"),
    Model("blip2", "BLIP-2", "blip2", weights="Salesforce/blip2-itm-vit-g"),
    Model("fromage", "FROMAGe", "fromage", weights="facebook/opt-6.7b and its maps"),
    CKS,
)
TABLE_2 = (
    CKS,
    _without("KEUE", "use_keue"),
    _without("VKD", "use_vkd"),
    _without("CIM", "use_cim"),
    _without("ITC", "use_itc"),
    _without("ITM", "use_itm"),
    _without("Emo", "use_emotion"),
    _without("OCR", "use_ocr"),
)
# Run when named: what the common budget, a frozen CLIP, and the words as they are cost CKS.
_LAST_CLIP_LAYERS = ", ".join(
    [
        "text_encoder",
        *(f"visual_extractor.clip.{part}" for part in ("embeddings", "pre_layrnorm")),
        *(f"visual_extractor.clip.encoder.layers.{layer}." for layer in range(4)),
    ]
)
BEYOND = (
    CKS,
    Model("cks_five_epochs", "5 epochs", changes=("training.num_train_epochs=5",)),
    Model(
        "cks_clip_layers",
        "CLIP trained from its fifth layer on",
        changes=(f"training.freeze=[{_LAST_CLIP_LAYERS}]",),
    ),
    Model(
        "cks_hidden_words", "half of the samples without words", changes=("model.text_dropout=0.5",)
    ),
    Model("cks_do_words", "emotional words drawn anew", changes=("training.word_intervention=1",)),
)
MODELS = {model.name: model for model in (*TABLE_1, *TABLE_2, *BEYOND)}
