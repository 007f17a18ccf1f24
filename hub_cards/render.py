# SPDX-License-Identifier: Apache-2.0
"""Render the cards of a model and of a dataset from their records; nothing is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import (
    DatasetCard,
    DatasetCardData,
    EvalResult,
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
)

from hub_cards.record import CardError, Record

SPLITS = ("validation", "test_easy", "test_hard")
FIGURES = ("R@1", "R@3", "R@5", "MRR", "Acc")
METRIC_TYPES = {
    "R@1": "recall_at_1", "R@3": "recall_at_3", "R@5": "recall_at_5", "MRR": "mrr",
    "Acc": "accuracy",
}  # fmt: skip
# The Hub has no task of its own for stickers; the nearest also ranks images for a text.
TASK = "visual-document-retrieval"
TAGS = ["sticker-selection", "stickers", "dialogue", "emotion"]
SHEET_FILE = "stickers.png"
LANGUAGE_NAMES = {"en": "English", "zh": "Chinese"}
# In the order in which a reader asks for them.
_BACKBONES = {
    "text": "utterance encoder",
    "bert": "words of the multimodal encoder",
    "vision": "visual encoder",
    "comet": "knowledge (COMET, frozen)",
}
_BUDGET = {
    "num_train_epochs": "epochs at most",
    "per_device_train_batch_size": "batch",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_SHOWN_SKIPS = 10
# The columns that the card explains.
_COLUMNS = {"dialogue_id", "turn", "utterances", "sticker_id", "emotion", "candidates"}
_STICKER_COLUMNS = {"id", "name", "image", "caption", "emotion"}


@dataclass(frozen=True)
class ModelFacts:
    """All that a model's card is made of.

    Args:
        repo: the model's name on the Hub, `owner/name`.
        licence: the Hub's identifier of the weights' licence.
        language: the training dialogues' language, as `en`.
        training: the `training.json` of train.py.
        config: the model's `config.json`.
        processor: its `processor_config.json`.
        results: what evaluate.py wrote of this very model; each split once by candidates, perhaps
            again without COMET or over the whole sticker set.
        published: the paper's figures and setting.
        tables: what tables.py wrote of the same data.
        benchmark: what benchmark.py wrote.
        statistics: the data's `statistics.json`.
        dataset: the data's name on the Hub.
        terms: what binds whoever uses the weights, beyond the licence.
    """

    repo: str
    licence: str
    language: str
    training: Record
    config: Record
    processor: Record
    results: Sequence[Record]
    published: Record
    tables: Record | None = None
    benchmark: Record | None = None
    statistics: Record | None = None
    dataset: str | None = None
    terms: str | None = None


@dataclass(frozen=True)
class DatasetFacts:
    """All that a dataset's card is made of.

    Args:
        repo: the data's name on the Hub, `owner/name`.
        licence: the Hub's identifier of its licence.
        metadata: the YAML at the top of the `README.md` that prepare_mod.py wrote.
        statistics: the `statistics.json` beside it.
        counts: what `dataset_mod.statistics.describe` counted.
        skipped: what `skipped.json` lists as left out.
        shown: how many stickers the picture shows.
        source: who made the data and of what.
        terms: what binds whoever uses the data, beyond the licence.
    """

    repo: str
    licence: str
    metadata: Record
    statistics: Record
    counts: Record
    skipped: Sequence[Record]
    shown: int
    source: str | None = None
    terms: str | None = None


def render_model_card(facts: ModelFacts) -> str:
    """Return the text of a model's `README.md`.

    Raises:
        CardError: a value is missing or the records do not belong together.
    """
    runs = _Runs(facts)
    backbones = _backbones(facts.training)
    data = ModelCardData(
        base_model=sorted({b["name"] for b in backbones if b["on_hub"] and b["part"] != "comet"})
        or None,
        datasets=[facts.dataset] if facts.dataset else None,
        eval_results=_model_index(facts, runs),
        language=facts.language,
        library_name="transformers",
        license=facts.licence,
        metrics=["recall", "mrr", "accuracy"],
        model_name=_last(facts.repo),
        pipeline_tag=TASK,
        tags=[*TAGS, "causal-inference", "cks"],
    )
    body = _environment().get_template("model_card.md.j2").render(
        facts=facts,
        name=_last(facts.repo),
        data_name=_data_name(facts),
        language=LANGUAGE_NAMES.get(facts.language, facts.language),
        emotions=_emotions(facts.config),
        knows=runs.knows,
        comet=_comet(facts, runs.knows),
        runs=runs,
        recipe=list(_recipe_rows(facts.training)),
        backbones=backbones,
        paper_rows=_paper_rows(facts, runs),
        differences=list(_differences(facts, runs, backbones)),
        tables=_measured_tables(facts, runs.main),
        splits=list(runs.main),
        figures=FIGURES,
    )  # fmt: skip
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def render_eval_results(facts: ModelFacts) -> str:
    """Return the `.eval_results` file: the R@1 of each split for the data's page on the Hub.

    Raises:
        CardError: as for the card, or the data has no name on the Hub.
    """
    if facts.dataset is None:
        raise CardError("evaluation results belong to a dataset on the Hub: name it")
    entries = []
    for split, result in _Runs(facts).main.items():
        figures = ", ".join(f"{name} {value:.2f}" for name, value in result.figures.items())
        entries.append(
            EvalResultEntry(
                dataset_id=facts.dataset,
                task_id=f"{facts.language}_{split}",
                value=round(result.figures["R@1"], 2),
                date=result.time,
                source_url=f"https://huggingface.co/{facts.repo}",
                source_name="model card",
                notes=f"R@1; all in percent: {figures}",
            )
        )
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)


def render_dataset_card(facts: DatasetFacts) -> str:
    """Return the text of a prepared folder's `README.md`, which `load_dataset` still reads.

    Raises:
        CardError: a value is missing or the records do not belong together.
    """
    infos = {info["config_name"]: info for info in facts.metadata["dataset_info"]}
    languages = facts.statistics["languages"]
    samples = {}
    for language in languages:
        if language not in infos:
            raise CardError(f"{facts.metadata.file}: dataset_info has no {language}")
        _check_columns(facts.metadata.file, infos[language], _COLUMNS)
        for split in infos[language]["splits"]:
            rows = facts.statistics["splits"][language][split["name"]]["rows"]
            if rows != split["num_examples"]:
                raise CardError(
                    f"{facts.metadata.file}: {language} {split['name']} has "
                    f"{split['num_examples']} rows, {facts.statistics.file} says {rows}"
                )
            samples[language, split["name"]] = rows
    _check_columns(facts.metadata.file, infos["stickers"], _STICKER_COLUMNS)
    data = DatasetCardData(
        **{
            **facts.metadata.plain(),
            "license": facts.licence,
            "pretty_name": _last(facts.repo),
            "tags": TAGS,
            "task_categories": [TASK, "text-classification"],
            "size_categories": [_size(sum(samples.values()))],
        }
    )
    body = _environment().get_template("dataset_card.md.j2").render(
        facts=facts,
        name=_last(facts.repo),
        languages=languages,
        language_names=LANGUAGE_NAMES,
        splits=[split["name"] for split in infos[languages[0]]["splits"]],
        sizes={
            (config, split["name"]): split["num_bytes"]
            for config, info in infos.items()
            for split in info["splits"]
        },
        # Only what prepare_chats.py wrote says which turns became no sample, and why.
        chats="left_out" in facts.statistics,
        sheet=SHEET_FILE,
        shown_skips=_SHOWN_SKIPS,
    )  # fmt: skip
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


@dataclass(frozen=True)
class _Result:
    """The figures of one split, in percent, and those of the yardsticks beside them."""

    figures: dict[str, float]
    yardsticks: dict[str, dict[str, float]]
    samples: int
    blank: int
    time: str


class _Runs:
    """The results of one model, sorted by what was asked of it; each is split -> `_Result`."""

    def __init__(self, facts: ModelFacts) -> None:
        self.knows = bool(facts.config["use_keue"] and facts.config["use_knowledge"])
        self.main: dict[str, _Result] = {}
        self.bare: dict[str, _Result] = {}
        self.whole: dict[str, _Result] = {}
        for record in facts.results:
            _check_run(record, facts.training)
            bare = self.knows and not record["knowledge"]
            if record["whole_set"] and bare:
                raise CardError(f"{record.file}: the whole set without COMET has no place here")
            kind = self.whole if record["whole_set"] else self.bare if bare else self.main
            splits = record["splits"] if "splits" in record else {record["split"]: record}
            for split, found in splits.items():
                if split in kind:
                    raise CardError(f"{record.file}: {split} is in another of the results already")
                kind[split] = _result(found, record, facts.config["use_emotion"])
        wanted = _evaluated(facts)
        missing = [split for split in wanted if split not in self.main]
        if missing:
            files = ", ".join(record.file for record in facts.results)
            raise CardError(
                f"{files}: there is no {', '.join(missing)} by candidates; run evaluate.py with "
                "--split all"
            )
        self.main = {split: self.main[split] for split in wanted}

    def rows(self, split: str) -> Iterator[tuple[str, dict[str, float]]]:
        """Give what was measured on a split: the model's figures, then the yardsticks'."""
        main = self.main[split]
        yield "**this model**", main.figures
        if split in self.bare:
            yield "this model, run without COMET", self.bare[split].figures
        yield from main.yardsticks.items()

    def behind(self) -> list[str]:
        """Name the splits on which a yardstick's R@1 is not below the model's."""
        return [
            split
            for split, result in self.main.items()
            if any(y["R@1"] >= result.figures["R@1"] for y in result.yardsticks.values())
        ]


def _evaluated(facts: ModelFacts) -> list[str]:
    """List the splits that the data has to evaluate on; MOD's where the data is not at hand."""
    if facts.statistics is None:
        return list(SPLITS)
    return [split for split in facts.statistics["splits"][facts.language] if split != "train"]


def _check_run(record: Record, training: Record) -> None:
    """Refuse the figures of another model."""
    for field in ("recipe", "seed"):
        ours, theirs = training[field], record[field]
        if isinstance(ours, Record):
            ours, theirs = ours.plain(), theirs.plain()
        if ours != theirs:
            raise CardError(f"{record.file}: {field} is not that of {training.file}")
    ours, theirs = training["data"], record["data"]
    if ours["fingerprint"] != theirs["fingerprint"]:
        raise CardError(f"{record.file}: data.fingerprint is not that of {training.file}")
    if ours.get("language") != theirs.get("language"):
        raise CardError(f"{record.file}: data.language is not that of {training.file}")
    if record["time"] < training["time"]:
        raise CardError(f"{record.file}: is older than {training.file}; evaluate again")


def _result(found: Record, record: Record, names_emotion: bool) -> _Result:
    metrics = found["metrics"]
    recalls = [key for key in metrics if key.startswith("R@")] if record["whole_set"] else []
    wanted = [*(recalls or FIGURES[:3]), "MRR"]
    if names_emotion and metrics["emotion_samples"]:
        wanted.append("Acc")
    return _Result(
        {name: metrics[name] for name in wanted},
        {
            name: {
                figure: of[figure] for figure in wanted if figure != "Acc" or figure in of
            }
            for name, of in found["yardsticks"].items()
        },
        metrics["samples"],
        metrics["blank_samples"],
        record["time"],
    )  # fmt: skip


def _model_index(facts: ModelFacts, runs: _Runs) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=TASK,
            task_name="Sticker selection",
            dataset_type=facts.dataset or "mod",
            dataset_name=_data_name(facts),
            dataset_config=facts.language,
            dataset_split=split,
            metric_type=METRIC_TYPES[name],
            metric_name=name,
            metric_value=round(value, 2),
        )
        for split, result in runs.main.items()
        for name, value in result.figures.items()
    ]


def _backbones(training: Record) -> list[dict]:
    """Tell what each part started from; a name without an owner was a local folder."""
    found = []
    for part, role in _BACKBONES.items():
        name = training["backbones"].get(part)
        on_hub = name is not None and "/" in name
        shown = name or ("none" if part == "comet" else "from scratch")
        if name and not on_hub:
            shown += " (local folder)"
        found.append({"part": part, "role": role, "name": name, "shown": shown, "on_hub": on_hub})
    return found


def _recipe_rows(training: Record) -> Iterator[tuple[str, object]]:
    """List the recipe's settings as `section.field`, without what was not used."""
    recipe = training["recipe"]
    for section, fields in recipe.items():
        if section in ("backbones", "baselines"):
            continue
        if not isinstance(fields, Record):
            yield section, fields
            continue
        for field, value in fields.items():
            if section == "scratch":
                if field.removesuffix("_config") not in training["backbones"]:
                    yield f"{section}.{field}", ", ".join(f"{k}: {v}" for k, v in value.items())
            else:
                yield f"{section}.{field}", value


def _differences(
    facts: ModelFacts, runs: _Runs, backbones: Sequence[dict]
) -> Iterator[tuple[str, object, object]]:
    """Set what this model had beside what the paper's had."""
    paper = facts.published["setting"]
    yield "data", _data_name(facts), paper["data"]
    if facts.statistics:
        of = facts.statistics["splits"][facts.language]
        yield "samples, train", of["train"]["rows"], paper["samples"]["train"]
    for split, result in runs.main.items():
        yield f"samples, {split}", result.samples, paper["samples"].get(split, "-")
    for backbone in backbones:
        yield backbone["role"], backbone["shown"], paper["backbones"][backbone["part"]]
    recipe = facts.training["recipe"]["training"]
    for field, label in _BUDGET.items():
        yield label, recipe.get(field, "the library's default"), paper[field]


def _paper_rows(facts: ModelFacts, runs: _Runs) -> dict[str, list[tuple[str, dict]]]:
    """Set the paper's figures for CKS beside this model's, split by split."""
    names, values = facts.published["figures"], facts.published["models"]["cks"]
    return {
        split: [
            ("this model, on its own data", result.figures),
            ("CKS in the paper, on MOD", dict(zip(names, values[split], strict=True))),
        ]
        for split, result in runs.main.items()
        if split in SPLITS
    }


def _measured_tables(facts: ModelFacts, splits: Iterable[str]) -> dict[str, list[dict]] | None:
    """Give the rows of tables.py for each split, refused where the data is other data."""
    if facts.tables is None:
        return None
    ours, theirs = facts.training["data"]["fingerprint"], facts.tables["data"]["fingerprint"]
    if ours != theirs:
        raise CardError(f"{facts.tables.file}: is of other data than {facts.training.file}")
    return {split: list(_table_rows(facts.tables, split)) for split in splits}


def _table_rows(tables: Record, split: str) -> Iterator[dict]:
    for model in tables["models"].values():
        found = model["splits"][split]
        title = model["title"] + (", zero-shot" if model.get("zero_shot") else "")
        row = {
            "title": title + (" †" if "without_weights" in model else ""),
            "seeds": len(model["seeds"]),
            "figures": {},
            "ahead": "-",
        }
        for figure in FIGURES:
            if figure == "Acc" and figure not in found:
                continue
            of = found[figure]
            spread = f" ± {of['spread']:.2f}" if "spread" in of else ""
            row["figures"][figure] = f"{of['mean']:.2f}{spread}"
        if "against_cks" in model:
            ahead = model["against_cks"][split]["R@1"]
            row["ahead"] = f"{ahead['mean']:+.2f} [{ahead['low']:+.2f}, {ahead['high']:+.2f}]"
        yield row


def _comet(facts: ModelFacts, knows: bool) -> str | None:
    """Say where the COMET of a model that takes knowledge is found."""
    if not knows:
        return None
    name = facts.processor["comet"]
    # As the processor writes down that its COMET was saved along with it.
    saved_along = name == "{checkpoint}/comet"
    return "lies in this repository, in `comet/`" if saved_along else f"is `{name}`"


def _emotions(config: Record) -> list[str]:
    labels = config["id2label"]
    return [labels[number] for number in sorted(labels, key=int)]


def _data_name(facts: ModelFacts) -> str:
    if facts.dataset:
        return facts.dataset
    return f"data in the layout of MOD ({facts.training['data']['fingerprint'][:12]})"


def _check_columns(file: str, info: Record, described: set[str]) -> None:
    found = {column["name"] for column in info["features"]}
    if found != described:
        odd = ", ".join(sorted(found ^ described))
        raise CardError(f"{file}: {info['config_name']} has other columns than the card: {odd}")


def _size(samples: int) -> str:
    return next((name for limit, name in _SIZES if samples < limit), "n>1M")


def _last(repo: str) -> str:
    return repo.rpartition("/")[2]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "percent": _percent}
    return environment


def _cell(value: object) -> str:
    """Write a value into a cell of a table; text cannot break out of it."""
    if isinstance(value, Mapping):
        value = ", ".join(f"{key}: {one}" for key, one in value.items())
    elif isinstance(value, list):
        value = ", ".join(map(str, value))
    elif isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int):
        value = f"{value:,}"
    return " ".join(str(value).replace("|", "\\|").split())


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
