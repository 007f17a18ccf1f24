# SPDX-License-Identifier: Apache-2.0
"""Publish from a process that has the package, in every way there is; print what it scored."""

import json
import sys
from pathlib import Path

import publish
import torch
from datasets import load_dataset
from huggingface_hub import HfApi
from reader import candidates, scored
from small_world import trainer
from tiny_comet import tiny_comet
from tiny_model import tiny_cks
from transformers import pipeline

from modeling_cks import CKSModel, CKSProcessor


def main(folder: Path) -> dict:
    """Write to `folder`, publish from there, and return the scores by repository."""
    answers = {}
    api = HfApi()

    # A folder, by the script: the first of two commits.
    model, processor = tiny_cks(folder / "first")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "model" / "README.md").write_text((folder / "card.md").read_text())
    assert publish.main([str(folder / "model"), "org/cks", "--type", "model", "--yes"]) == 0
    answers["first"] = {"scores": scored(model, processor, folder), "sha": head(api, "org/cks")}
    api.create_tag("org/cks", tag="v1")

    # The second commit has other weights, of CKS and of its COMET, and comes from a pipeline.
    second, other = tiny_cks(folder / "second", seed=1)
    comet = tiny_comet(folder / "another", seed=5)
    for place in ("onnx", ".cache"):  # as snapshots of the Hub have them
        (comet / place).mkdir()
        (comet / place / "more").write_text("of no use here")
    other.comet = str(comet)
    select = pipeline("sticker-selection", model=second, processor=other)
    select.push_to_hub("org/cks")
    answers["second"] = {
        "scores": scored(second, other, folder),
        "sha": head(api, "org/cks"),
        "answer": select(*candidates(folder)),
    }

    # Model and processor one by one, the processor both by what it has and while it is saved.
    model.push_to_hub("org/pushed", revision="branch", private=True)
    processor.push_to_hub("org/pushed", revision="branch")
    model.save_pretrained(str(folder / "saved"), push_to_hub=True, repo_id="org/saved")
    processor.save_pretrained(str(folder / "saved"), push_to_hub=True, repo_id="org/saved")

    # What the trainer pushes while it trains, and in the end, when it has trained on.
    learner = trainer(
        folder / "trained",
        folder / "run",
        model_fields={"use_knowledge": False},
        num_train_epochs=1,
        save_strategy="epoch",
        push_to_hub=True,
        hub_model_id="org/trained",
    )
    answers["training"] = {"scores": learned(learner, folder), "sha": head(api, "org/trained")}
    learner.args.num_train_epochs, learner.args.save_strategy = 2, "no"
    answers["trained"] = {"scores": learned(learner, folder)}
    learner.push_to_hub()

    # The prepared data, by the script and by the library.
    assert publish.main([str(folder / "data"), "org/mod", "--type", "dataset", "--yes"]) == 0
    tables = load_dataset(str(folder / "data"), "en")
    tables.push_to_hub("org/pushed_mod", "en", set_default=True)
    stickers = load_dataset(str(folder / "data"), "stickers")
    stickers.push_to_hub("org/pushed_mod", "stickers")

    # What code without the package will be asked to load.
    by_package = CKSModel.from_pretrained("org/cks", revision="v1")
    by_package.save_pretrained(folder / "by_package")
    CKSProcessor.from_pretrained("org/cks", revision="v1").save_pretrained(folder / "by_package")
    return answers


def learned(learner, folder: Path) -> list[float]:
    """Train, wait for what is pushed meanwhile, and return the scores."""
    learner.train()
    learner._finish_current_push()
    learner.model.eval()
    return scored(learner.model, learner.processor, folder)


def head(api: HfApi, name: str) -> str:
    """Return the newest commit of a model's repository."""
    return api.model_info(name).sha


if __name__ == "__main__":
    torch.manual_seed(0)
    print(json.dumps(main(Path(sys.argv[1]))))
