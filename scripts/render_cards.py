# SPDX-License-Identifier: Apache-2.0
"""Write the card of a trained model or of prepared data; every number comes from a record.

`model` writes MODEL_DIR/README.md and, where the data has a name on the Hub,
MODEL_DIR/.eval_results/sticker-selection.yaml. `dataset` writes DATA_DIR/README.md, which plain
`load_dataset` goes on reading, and a picture of the stickers beside it.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import _cli
from huggingface_hub import metadata_load
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from dataset_mod.prepared import SKIPPED_FILE, STATISTICS_FILE
from dataset_mod.statistics import describe, sticker_images
from hub_cards import (
    SHEET_FILE,
    DatasetFacts,
    ModelFacts,
    Record,
    contact_sheet,
    render_dataset_card,
    render_eval_results,
    render_model_card,
)

EVAL_RESULTS = Path(".eval_results", "sticker-selection.yaml")
# MOD has 307; more of them on one picture would be too small to see.
SHEET_STICKERS = 400


def main(argv: list[str] | None = None) -> int:
    """Render what was asked for and say what was written."""
    args = _parse(argv)
    for name in (args.repo, args.dataset if args.what == "model" else None):
        if name:
            _check_name(name)
    written = model(args) if args.what == "model" else dataset(args)
    print(f"written: {', '.join(map(str, written))}")
    return 0


def model(args: argparse.Namespace) -> list[Path]:
    """Write a model's card and its evaluation results."""
    folder = args.folder
    training = read(folder / "training.json")
    statistics = read(args.data / STATISTICS_FILE) if args.data else None
    if statistics and statistics["fingerprint"] != training["data"]["fingerprint"]:
        raise ValueError(f"{args.data}: is not the data that {training.file} names")
    language = training["data"].get("language") or args.language
    if not language:
        # Without a name, train.py took the data's first.
        if not statistics:
            raise ValueError(
                f"{training.file}: names no data.language; give --language, or --data to look it up"
            )
        language = statistics["languages"][0]
    facts = ModelFacts(
        repo=args.repo,
        licence=args.licence,
        language=language,
        training=training,
        config=read(folder / "config.json"),
        processor=read(folder / "processor_config.json"),
        results=[read(path) for path in args.results],
        published=read(Path(__file__).with_name("published.json")),
        tables=args.tables and read(args.tables),
        benchmark=args.benchmark and read(args.benchmark),
        statistics=statistics,
        dataset=args.dataset,
        terms=args.terms,
    )
    card = render_model_card(facts)
    written = [folder / "README.md"]
    if facts.dataset:
        results = render_eval_results(facts)
        _cli.write_bytes(folder / EVAL_RESULTS, results.encode())
        written.append(folder / EVAL_RESULTS)
    else:
        # One of an earlier call would belong to other figures.
        (folder / EVAL_RESULTS).unlink(missing_ok=True)
        print(f"no {EVAL_RESULTS}: give --dataset to name the data's repository")
    _cli.write_bytes(folder / "README.md", card.encode())
    return written


def dataset(args: argparse.Namespace) -> list[Path]:
    """Write a prepared folder's card and the picture of its stickers."""
    folder = args.folder
    counts = describe(folder)
    images = sticker_images(folder, SHEET_STICKERS)
    skipped = folder / SKIPPED_FILE
    facts = DatasetFacts(
        repo=args.repo,
        licence=args.licence,
        metadata=read_metadata(folder / "README.md"),
        statistics=read(folder / STATISTICS_FILE),
        counts=Record(counts, f"the tables of {folder}"),
        skipped=read_list(skipped) if skipped.exists() else [],
        shown=len(images),
        source=args.source,
        terms=args.terms,
    )
    card = render_dataset_card(facts)
    picture = io.BytesIO()
    contact_sheet(images).save(picture, "PNG", optimize=True)
    _cli.write_bytes(folder / SHEET_FILE, picture.getvalue())
    _cli.write_bytes(folder / "README.md", card.encode())
    return [folder / "README.md", folder / SHEET_FILE]


def read(path: Path) -> Record:
    """Read a JSON object.

    Raises:
        ValueError: naming the file that is missing or no JSON object.
    """
    return Record(_json(path), str(path))


def read_list(path: Path) -> list[Record]:
    """Read a JSON list of objects."""
    return [Record(one, str(path), f"[{number}]") for number, one in enumerate(_json(path))]


def read_metadata(path: Path) -> Record:
    """Read the YAML at the top of a card."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; prepare the data again with scripts/prepare_mod.py")
    return Record(metadata_load(path) or {}, str(path))


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: the file is missing, and no value is made up") from None
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None


def _check_name(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name}: not a name on the Hub ({error})") from None
    if "/" not in name:
        raise ValueError(f"{name}: not a name on the Hub; write it as owner/name")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whats = parser.add_subparsers(dest="what", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--repo", required=True, metavar="OWNER/NAME", help="its name on the Hub")
    both.add_argument(
        "--licence", required=True, help="its licence as the Hub writes it: apache-2.0, other, ..."
    )
    both.add_argument("--terms", help="what binds whoever uses it, beyond the licence")

    one = whats.add_parser("model", parents=[both], help="the card of a trained CKS")
    one.add_argument("folder", type=Path, metavar="MODEL_DIR", help="folder that train.py wrote")
    one.add_argument(
        "--results", type=Path, nargs="+", required=True, metavar="RES.json",
        help="what evaluate.py wrote of this model: every split by candidates, and perhaps"
        " --no-knowledge and --whole-set",
    )  # fmt: skip
    one.add_argument("--tables", type=Path, help="tables.json of tables.py, on the same data")
    one.add_argument("--benchmark", type=Path, help="what benchmark.py wrote")
    one.add_argument("--data", type=Path, help="folder of prepare_mod.py, for its language, sizes")
    one.add_argument("--dataset", metavar="OWNER/NAME", help="the data's name on the Hub")
    one.add_argument("--language", help="the data's language, where training.json names none")

    two = whats.add_parser("dataset", parents=[both], help="the card of prepared data")
    two.add_argument("folder", type=Path, metavar="DATA_DIR", help="folder of prepare_mod.py")
    two.add_argument("--source", help="who made the data, and of what: one or two sentences")
    return parser.parse_args(argv)


if __name__ == "__main__":
    _cli.run_main(main)
