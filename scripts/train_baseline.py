# SPDX-License-Identifier: Apache-2.0
"""Train a baseline by a recipe, on the samples, negatives and budget that CKS gets.

Goes on from its last checkpoint when run again. The recipe's section `baselines` may say, for each
kind, `text`, `vision` (where a baseline wants others than the rest), `checkpoint`, `scratch`,
`settings`, `freeze` and `training`. A baseline of which nothing learns is saved as it comes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import _cli
import train as cks_training
from transformers import set_seed

from dataset_mod import load_prepared
from dataset_mod.sampling import NegativeSampler
from modeling_cks.backbones import parameter_counts
from modeling_cks.baselines import BASELINES, baseline_class
from modeling_cks.baselines.trainer import BaselineTrainer
from modeling_cks.training import TrainingSamples

_FIELDS = ("text", "vision", "checkpoint", "scratch", "settings", "freeze", "training")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=BASELINES)
    parser.add_argument("recipe", type=Path, help="YAML file, as train.py takes")
    parser.add_argument("--data", type=Path, required=True, help="folder of prepare_mod.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--language", help="which language of the data; its first by default")
    parser.add_argument("--text", help="name or folder of a BERT-type encoder")
    parser.add_argument("--vision", help="name or folder of CLIP's visual encoder")
    parser.add_argument("--checkpoint", help="name or folder of the baseline's own checkpoint")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="override any field of the recipe; may be given several times",
    )
    parser.add_argument("--seed", type=int, help="short for --set training.seed=SEED")
    parser.add_argument("--restart", action="store_true", help="forget earlier checkpoints")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, keep the model, and write down what was done."""
    options = parse(argv)
    recipe = cks_training.read_recipe(options.recipe, options.set)
    own = (recipe.get("baselines") or {}).get(options.kind) or {}
    unknown = sorted(set(own) - set(_FIELDS))
    if unknown:
        raise ValueError(
            f"{options.recipe}: baselines.{options.kind} has no field {unknown[0]!r}, only "
            f"{', '.join(_FIELDS)}"
        )
    training = {**recipe.get("training", {}), "freeze": [], **own.get("training", {})}
    training["freeze"] = own.get("freeze", [])
    if options.seed is not None:
        training["seed"] = options.seed
    data = load_prepared(options.data, options.language)
    arguments = cks_training.training_arguments(options.output, training)
    set_seed(arguments.seed)
    shared = recipe.get("backbones", {})
    sources = {
        # --text and --vision name what all models of a table start from, so a baseline's own goes
        # before them; --checkpoint is its own.
        "text": own.get("text") or options.text or shared.get("text"),
        "vision": own.get("vision") or options.vision or shared.get("vision"),
        "checkpoint": options.checkpoint or own.get("checkpoint"),
    }
    baseline = baseline_class(options.kind).build(
        emotions=data.emotions,
        **sources,
        scratch=own.get("scratch"),
        **own.get("settings", {}),
    )
    baseline.ocr_cache_path = str(options.data / "ocr.json")
    with arguments.main_process_first():
        inventory = baseline.use_stickers(data.stickers)
    intervention = cks_training.word_intervention(arguments, options.data, options.language)
    samples = TrainingSamples(
        data.splits["train"],
        NegativeSampler(inventory.ids, inventory.emotions, arguments.seed),
        intervention,
    )
    trainer = BaselineTrainer(baseline, arguments, samples, data.splits["validation"])
    identity = cks_training.run_identity(
        {"kind": options.kind, "own": own, "training": training},
        sources,
        data.fingerprint,
        intervention,
    )
    with arguments.main_process_first():
        checkpoint = cks_training.last_checkpoint(
            options.output, identity, options.restart, trainer
        )
    start = time.monotonic()
    if baseline.trains:
        trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.monotonic() - start
    if trainer.is_world_process_zero():
        baseline.save_pretrained(options.output)
        _cli.write_json(
            options.output / "training.json",
            _cli.evidence(
                recipe=recipe,
                recipe_file=options.recipe.name,
                backbones={name: cks_training.shown_name(value) for name, value in sources.items()},
                data={"fingerprint": data.fingerprint, "language": options.language},
                seed=arguments.seed,
                seconds=round(seconds, 1),
                steps=trainer.state.global_step,
                resumed=checkpoint is not None,
                peak_memory_mib=round(_cli.peak_memory_mib()),
                parameters=parameter_counts(baseline),
                frozen_parameters=trainer.frozen_parameters,
                word_intervention=cks_training.about_intervention(intervention),
                history=trainer.state.log_history,
            ),
        )
        done = f"trained {trainer.state.global_step} steps in {seconds:.0f} s"
        print(
            f"{done if baseline.trains else 'not trained (zero-shot)'}; the model is in "
            f"{options.output}"
        )
    return 0


if __name__ == "__main__":
    _cli.run_main(main)
