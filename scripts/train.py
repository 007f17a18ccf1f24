# SPDX-License-Identifier: Apache-2.0
"""Train CKS by a recipe on prepared data; goes on from its last checkpoint when run again."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import _cli
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from dataset_mod import load_prepared
from dataset_mod.bias import load_words
from dataset_mod.sampling import NegativeSampler
from modeling_cks.backbones import build, parameter_counts
from modeling_cks.training import (
    CKSTrainer,
    CKSTrainingArguments,
    StickerInventory,
    TrainingSamples,
    WordIntervention,
)

_BACKBONES = ("text", "bert", "vision", "comet")
_SECTIONS = {
    "backbones": _BACKBONES,
    "scratch": ("text_config", "bert_config", "vision_config"),
    "model": None,
    "processor": None,
    "training": None,
    "early_stopping_patience": None,
    "knowledge": None,
    "data_prior": None,
    "baselines": None,
}
_MAPPINGS = ("backbones", "scratch", "model", "processor", "training")


def read_recipe(path: Path, changes: Iterable[str] = ()) -> dict:
    """Read a recipe and apply changes of the form `section.field=value`.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a readable recipe ({error})") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path}: a recipe is a mapping of sections")
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ValueError(f"--set {change}: write it as section.field=value")
        *sections, field = key.split(".")
        place = recipe
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ValueError(f"--set {change}: {section} is no section")
        place[field] = _number(yaml.safe_load(value))
    for section, fields in recipe.items():
        if section not in _SECTIONS:
            known = ", ".join(_SECTIONS)
            raise ValueError(f"{path}: there is no section {section!r}, only {known}")
        if section in _MAPPINGS and not isinstance(fields, dict):
            raise ValueError(f"{path}: section {section!r} is not a mapping of fields")
        for field in fields if _SECTIONS[section] else ():
            if field not in _SECTIONS[section]:
                raise ValueError(f"{path}: {section} has no field {field!r}")
    return recipe


def _number(value: object) -> object:
    """Read 1e-4 as the number that it is; YAML 1.1 wants a point in it."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def emotion_prior(words: list[str], emotions: list[str], labels: Iterable[int]) -> list[float]:
    """Count P(w) of the dictionary's words on the training labels, with one added to each.

    A word stands for the emotion of its name; a word that names none keeps its added one alone.
    """
    stems = {"happiness": "joy", "happy": "joy", "sad": "sadness", "surprised": "surprise"}
    names = [stems.get(name.lower(), name.lower()) for name in emotions]
    counts = dict.fromkeys(range(len(emotions)), 0)
    for label in labels:
        if label >= 0:
            counts[label] += 1
    totals = [
        1 + sum(counts[i] for i, name in enumerate(names) if name == stems.get(word, word))
        for word in words
    ]
    return [total / sum(totals) for total in totals]


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, help="YAML file, such as scripts/recipes/mini.yaml")
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_mod.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--language", help="which language of the data; its first by default")
    for name in _BACKBONES:
        parser.add_argument(f"--{name}", help=f"name or folder of the {name} checkpoint")
    parser.add_argument(
        "--knowledge-store",
        type=Path,
        help="where COMET's features are kept (default: knowledge/ in the data)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override any field of the recipe; may be given several times",
    )
    parser.add_argument("--seed", type=int, help="short for --set training.seed=SEED")
    parser.add_argument("--restart", action="store_true", help="forget earlier checkpoints")
    parser.add_argument(
        "--report-to", help="tensorboard, trackio, ...: short for --set training.report_to=..."
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, keep the best model, and write down what was done."""
    options = parse(argv)
    recipe = read_recipe(options.recipe, options.set)
    training = recipe.setdefault("training", {})
    if options.seed is not None:
        training["seed"] = options.seed
    if options.report_to:
        training["report_to"] = options.report_to
    backbones = dict.fromkeys(_BACKBONES) | recipe.get("backbones", {})
    backbones |= {name: value for name in _BACKBONES if (value := getattr(options, name))}
    use_knowledge = recipe.get("knowledge", True) and backbones["comet"] is not None

    _thaw_scratch(training, backbones)
    data = load_prepared(options.data, options.language)
    arguments = training_arguments(options.output, training)
    set_seed(arguments.seed)
    train = data.splits["train"]
    texts = _texts(train) if None in (backbones["text"], backbones["bert"]) else []
    model_fields = dict(recipe.get("model", {}))
    model_fields["use_knowledge"] = model_fields.get("use_knowledge", True) and use_knowledge
    if not model_fields["use_knowledge"]:
        backbones["comet"] = None
    try:
        model, processor = build(
            emotions=data.emotions,
            texts=texts,
            processor_options=recipe.get("processor", {}),
            **backbones,
            # What a part is made of from scratch is of no use where a checkpoint is given.
            **{
                key: fields
                for key, fields in recipe.get("scratch", {}).items()
                if backbones[key.removesuffix("_config")] is None
            },
            **model_fields,
        )
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"{options.recipe}: {error}") from error
    if recipe.get("data_prior") and model.config.use_vkd:
        _set_prior(
            model, emotion_prior(model.config.dictionary_words, data.emotions, train["emotion"])
        )
    processor.ocr_cache_path = str(options.data / "ocr.json")
    processor.knowledge_store = str(options.knowledge_store or options.data / "knowledge")

    intervention = word_intervention(arguments, options.data, options.language)
    # The first process fills the caches of texts and knowledge, and the others find them full.
    with arguments.main_process_first():
        inventory = StickerInventory(data.stickers, processor)
        samples = TrainingSamples(
            train,
            NegativeSampler(inventory.ids, inventory.emotions, arguments.seed),
            intervention,
        )
        if model_fields["use_knowledge"]:
            _extract(processor, samples, data.splits["validation"], arguments)
    callbacks = []
    if patience := recipe.get("early_stopping_patience"):
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=patience))
    trainer = CKSTrainer(
        model,
        arguments,
        processor,
        inventory,
        samples,
        data.splits["validation"],
        callbacks=callbacks,
    )
    identity = run_identity(recipe, backbones, data.fingerprint, intervention)
    with arguments.main_process_first():
        checkpoint = last_checkpoint(options.output, identity, options.restart, trainer)
    start = time.monotonic()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.monotonic() - start
    if trainer.is_world_process_zero():
        best = {
            key.removeprefix("eval_"): value
            for key, value in trainer.evaluate().items()
            if key.startswith("eval_")
        }
        # The model's files last: a folder with weights is a whole one.
        processor.save_pretrained(options.output)
        trainer.model.save_pretrained(options.output)
        _cli.write_json(
            options.output / "training.json",
            _cli.evidence(
                recipe=recipe,
                recipe_file=options.recipe.name,
                backbones={name: shown_name(value) for name, value in backbones.items()},
                data={"fingerprint": data.fingerprint, "language": options.language},
                seed=arguments.seed,
                seconds=round(seconds, 1),
                steps=trainer.state.global_step,
                resumed=checkpoint is not None,
                peak_memory_mib=round(_cli.peak_memory_mib()),
                parameters=parameter_counts(model),
                frozen_parameters=trainer.frozen_parameters,
                word_intervention=about_intervention(intervention),
                best_checkpoint=Path(trainer.state.best_model_checkpoint or "").name or None,
                validation=best,
                history=trainer.state.log_history,
            ),
        )
        shown = ", ".join(f"{key} {best[key]:.2f}" for key in ("R@1", "MRR", "Acc") if key in best)
        print(
            f"trained {trainer.state.global_step} steps in {seconds:.0f} s; validation {shown}; "
            f"the model is in {options.output}"
        )
    if arguments.push_to_hub:
        trainer.push_to_hub()
    return 0


def _thaw_scratch(training: dict, backbones: Mapping) -> None:
    """Freeze no encoder that starts from scratch, and say so."""
    parts = {"text_encoder": "text", "visual_extractor.clip": "vision"}
    for beginning in list(training.get("freeze", [])):
        for part, backbone in parts.items():
            if beginning.startswith(part) and backbones[backbone] is None:
                training["freeze"] = [name for name in training["freeze"] if name != beginning]
                print(f"{beginning} starts from scratch and is trained, not frozen")


def training_arguments(output: Path, training: Mapping) -> CKSTrainingArguments:
    """Read the recipe's section `training`, with what all recipes share filled in."""
    fields = {
        "output_dir": str(output / "checkpoints"),
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "R@1",
        "greater_is_better": True,
        "report_to": "none",
        **training,
    }
    if fields.get("push_to_hub") and not fields.get("hub_model_id"):
        raise ValueError("training: push_to_hub needs the repository's name, hub_model_id")
    try:
        return CKSTrainingArguments(**fields)
    except TypeError as error:
        raise ValueError(f"training: {error}") from error


def _texts(train) -> list[str]:
    """Return the training utterances: what a tokenizer from scratch is trained on."""
    return [turn["text"] for row in train["utterances"] for turn in row]


def _set_prior(model, prior: list[float]) -> None:
    model.config.dictionary_prior = prior
    vkd = model.visual_extractor.vkd
    vkd.prior.copy_(vkd.prior.new_tensor(prior))


def word_intervention(
    arguments: CKSTrainingArguments, data: Path, language: str | None
) -> WordIntervention | None:
    """Make the intervention that the recipe asks for, on the words that bias_report.py found.

    Raises:
        ValueError: nobody has looked for the data's emotional words yet.
    """
    if not arguments.word_intervention:
        return None
    words = load_words(data, language)
    return WordIntervention(words, arguments.word_intervention, arguments.seed)


def about_intervention(intervention: WordIntervention | None) -> dict | None:
    """Say for the record which words were drawn anew, and how likely."""
    if intervention is None:
        return None
    words = sorted((entry.word, entry.emotion) for entry in intervention.words.words.values())
    return {"probability": intervention.probability, "words": words}


def _extract(processor, samples: TrainingSamples, validation, arguments) -> None:
    """Fill the knowledge store with what is missing, so that no training step waits for COMET."""
    from tqdm.auto import tqdm

    epochs = math.ceil(arguments.num_train_epochs)
    texts = {text for _, text in samples.utterances(processor.max_utterances, epochs)}
    texts |= {turn["text"] for row in validation["utterances"] for turn in row}
    with tqdm(total=len(texts), desc="knowledge", unit="utterance") as bar:
        ordered = sorted(texts)
        for start in range(0, len(ordered), 512):
            part = ordered[start : start + 512]
            processor.knowledge_features(part)
            bar.update(len(part))


def run_identity(
    recipe: Mapping,
    backbones: Mapping,
    fingerprint: str,
    intervention: WordIntervention | None = None,
) -> str:
    """Hash what a checkpoint must have in common with this run to be gone on from."""
    parts = [recipe, backbones, fingerprint, about_intervention(intervention)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def last_checkpoint(output: Path, identity: str, restart: bool, trainer: CKSTrainer) -> str | None:
    """Find the checkpoint to go on from, and refuse one of another recipe or other data."""
    folder, mark = output / "checkpoints", output / "checkpoints" / "run.json"
    if trainer.is_world_process_zero() and restart:
        shutil.rmtree(folder, ignore_errors=True)
    if mark.exists() and json.loads(mark.read_text())["identity"] != identity:
        raise ValueError(
            f"{folder}: holds checkpoints of another recipe, data or backbones; give another "
            "--output, or --restart to forget them"
        )
    if trainer.is_world_process_zero():
        _cli.write_json(mark, {"identity": identity})
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def shown_name(value: str | None) -> str | None:
    """Name a checkpoint without this machine's paths."""
    return Path(value).name if value and Path(value).exists() else value


if __name__ == "__main__":
    _cli.run_main(main)
