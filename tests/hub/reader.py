# SPDX-License-Identifier: Apache-2.0
"""Load from the Hub, with or without the package, and print what was found.

Run as `python -I reader.py JOB.json`; imports nothing of the checkout unless the job says so.
"""

import json
import sys
import traceback
from pathlib import Path


def candidates(folder):
    """Return the dialogue, and the stickers with their names, that all processes score."""
    from PIL import Image

    dialogue = json.loads((Path(folder) / "dialogue.json").read_text())
    files = sorted((Path(folder) / "stickers").glob("*.png"))
    return dialogue, {file.name: Image.open(file) for file in files}


def scored(model, processor, folder):
    """Return the model's scores of the stickers."""
    import torch

    dialogue, images = candidates(folder)
    with torch.no_grad():
        return model(**processor(dialogue, list(images.values()))).scores[0].tolist()


def loaded(name, job, **options):
    """Load config, model, processor and pipeline from a repository or folder; say what they do."""
    from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

    if not job["package"]:
        options["trust_remote_code"] = True
    config = AutoConfig.from_pretrained(name, **options)
    model = AutoModel.from_pretrained(name, **options)
    processor = AutoProcessor.from_pretrained(name, **options)
    found = {"scores": scored(model, processor, job["folder"]), "training": model.training}
    select = pipeline("sticker-selection", model=name, **options)
    found["answer"] = select(*candidates(job["folder"]))
    found["kinds"] = [type(each).__module__ for each in (config, model, processor, select)]
    return model, processor, found


def described(tables):
    """Return what a table, read whole or as a stream, holds."""
    features = tables.features
    found = {"rows": 0, "emotion": features["emotion"].names, "features": str(features)}
    for row in tables:
        found["rows"] += 1
        if found["rows"] == 1:
            found["first"] = row
    image = found["first"].get("image")
    if image is not None:
        found["first"]["image"] = [image.mode, image.size, list(image.getpixel((3, 3)))]
    return found


def main(job):
    """Do what the job says."""
    if job["package"]:
        sys.path.insert(0, job["package"])
        import modeling_cks  # noqa: F401 (registers)
    else:
        # As if not installed: to import them is an error.
        sys.modules["modeling_cks"] = sys.modules["dataset_mod"] = None
    answers = {}
    for key, (name, options) in job["models"].items():
        try:
            model, processor, answers[key] = loaded(name, job, **options)
        except Exception:
            answers[key] = {"error": traceback.format_exc()}
            continue
        if key in job["save"]:
            model.save_pretrained(job["save"][key])
            processor.save_pretrained(job["save"][key])
    for key, (name, config, options) in job["data"].items():
        from datasets import load_dataset

        splits = load_dataset(name, config, **options)
        answers[key] = {split: described(table) for split, table in splits.items()}
    return answers


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
