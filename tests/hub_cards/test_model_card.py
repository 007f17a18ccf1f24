# SPDX-License-Identifier: Apache-2.0
import copy
import dataclasses
import re

import pytest
import yaml
from card_numbers import numbers_in, split_card, unexplained
from huggingface_hub import ModelCard, parse_eval_result_entries

from hub_cards import (
    CardError,
    ModelFacts,
    Record,
    render_eval_results,
    render_model_card,
)

SPLITS = ("validation", "test_easy", "test_hard")
RECIPE = {
    "backbones": {"text": "somewhere/unused-by-the-card", "comet": None},
    "scratch": {"text_config": {"hidden_size": 777}, "vision_config": {"patch_size": 13}},
    "model": {"embed_size": 191},
    "training": {
        "num_train_epochs": 17, "per_device_train_batch_size": 43, "learning_rate": 3e-5,
        "freeze": ["text_encoder", "visual_extractor.clip.encoder.layers.2"], "bf16": True,
    },
    "early_stopping_patience": 6,
}  # fmt: skip
FINGERPRINT = "5a" * 32


def metrics(start, **more):
    figures = {name: start + 7.123 * n for n, name in enumerate(("R@1", "R@3", "R@5", "MRR"))}
    counts = {"samples": int(start * 31), "emotion_samples": 400, "blank_samples": 0}
    return {**figures, **counts, **more}


def split_results(start):
    return {
        "metrics": metrics(start, Acc=start + 41.017),
        "yardsticks": {
            "chance": {"R@1": 9.0909, "R@3": 27.2727, "R@5": 45.4545, "MRR": 26.627},
            "most frequent sticker": metrics(start - 5.55, Acc=11.5 + start / 10),
        },
    }


def whole_records():
    training = {
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "git": "0123abcd4567",
        "machine": {"cpu": "A Processor 9000", "cores": 12, "system": "Linux x86_64"},
        "time": "2026-03-04T05:06:07Z",
        "recipe": copy.deepcopy(RECIPE),
        "recipe_file": "recipe9.yaml",
        "backbones": {"text": "owner/roberta", "bert": "bert-folder", "vision": None,
                      "comet": "owner/comet"},
        "data": {"fingerprint": FINGERPRINT, "language": "en"},
        "seed": 98,
        "seconds": 5432.1,
        "steps": 3210,
        "resumed": False,
        "peak_memory_mib": 2345,
        "parameters": {"total": 39916642},
        "frozen_parameters": 24500736,
        "best_checkpoint": "checkpoint-3100",
    }  # fmt: skip
    results = {
        "splits": {split: split_results(20.5 + 9.87 * n) for n, split in enumerate(SPLITS)},
        "time": "2026-03-05T00:00:00Z",
        "whole_set": False,
        "knowledge": True,
        "data": {"fingerprint": FINGERPRINT, "language": "en"},
        "recipe": copy.deepcopy(RECIPE),
        "seed": 98,
    }
    bare = {**copy.deepcopy(results), "knowledge": False}
    bare["splits"] = {"validation": split_results(18.88)}
    whole = {**copy.deepcopy(results), "whole_set": True, "split": "test_hard"}
    del whole["splits"]
    figures = {"R@1": 3.456, "R@20": 29.123, "MRR": 8.765, "Acc": 66.6}
    whole["metrics"] = {**figures, "samples": 55, "emotion_samples": 40, "blank_samples": 0}
    whole["yardsticks"] = {"chance": {"R@1": 0.303, "R@20": 6.0606, "MRR": 0.887}}
    figures = {split: [30.01, 60.02, 80.03, 50.04, 40.05] for split in SPLITS}
    published = {
        "setting": {
            "data": "MOD (English)",
            "samples": {"train": 212248, "validation": 3183, "test_easy": 3189, "test_hard": 6986},
            "backbones": {"text": "R", "bert": "B", "vision": "V", "comet": "C"},
            "num_train_epochs": 50, "per_device_train_batch_size": 64, "learning_rate": 1e-05,
            "weight_decay": 0.0003,
        },
        "co_occurrence": {"word": "sad", "percent": 41.33},
        "figures": ["R@1", "R@3", "R@5", "MRR", "Acc"],
        "models": {"cks": figures},
    }  # fmt: skip
    cell = {"mean": 12.345, "spread": 1.234, "seeds": [11.1, 13.6]}
    found = {name: dict(cell) for name in ("R@1", "R@3", "R@5", "MRR")}
    ahead = {"R@1": {"mean": -4.567, "low": -7.111, "high": 0.222}}
    tables = {
        "data": {"fingerprint": FINGERPRINT},
        "models": {
            "odd": {
                "title": "odd | model", "seeds": [0, 1], "without_weights": "its own",
                "splits": {split: copy.deepcopy(found) for split in SPLITS},
                "against_cks": dict.fromkeys(SPLITS, ahead),
            },
            "cks": {
                "title": "CKS", "seeds": [0], "without_weights": None, "zero_shot": False,
                "splits": {
                    split: {
                        **{name: {**cell, "spread": None} for name in found},
                        "Acc": {"mean": 77.77, "spread": None, "seeds": [77.77]},
                    }
                    for split in SPLITS
                },
            },
        },
    }  # fmt: skip
    one = {"measurement": "rank", "size": "full", "seconds": 1.2345, "rows_per_second": 7.26,
           "peak_memory_mib": 3333.3}  # fmt: skip
    return {
        "training": training,
        "config": {
            "use_keue": True, "use_knowledge": True, "use_ocr": True, "use_vkd": True,
            "use_cim": True, "use_emotion": True, "id2label": {"0": "joy", "1": "anger", "10": "z"},
        },
        "processor": {"comet": "{checkpoint}/comet", "ocr": "rapidocr"},
        "results": [results, bare, whole],
        "published": published,
        "tables": tables,
        "benchmark": {"results": [one], "machine": {"cpu": "B Processor", "cores": 3}},
        "statistics": {
            "splits": {"en": {"train": {"rows": 8765}} | {split: {"rows": 9} for split in SPLITS}}
        },
    }  # fmt: skip


@pytest.fixture
def records():
    return whole_records()


def facts(records, **more):
    named = {
        name: [Record(one, f"results{n}.json") for n, one in enumerate(value)]
        if isinstance(value, list)
        else Record(value, f"{name}.json")
        for name, value in records.items()
    }
    given = {
        "repo": "org/cks-small", "licence": "apache-2.0", "language": "en", "dataset": "org/mod",
        **named, **more,
    }  # fmt: skip
    return ModelFacts(**given)


def section(card, title):
    return re.split(r"^## ", card.partition(f"## {title}\n")[2], flags=re.M)[0]


def test_every_number_of_the_card_is_in_a_record(records):
    card = render_model_card(facts(records, licence="apache-9.7"))
    given = (records, "apache-9.7")
    assert len(numbers_in(split_card(card)[1])) > 150
    assert unexplained(card, *given) == []
    # The search itself: a figure that is off by its last digit is seen.
    assert unexplained(card.replace(" 20.50 |", " 20.51 |", 1), *given) == ["20.51"]
    assert unexplained(card.replace("value: 20.5\n", "value: 20.4\n", 1), *given) == ["20.4"]


def test_every_figure_stands_in_the_line_of_what_reached_it(records):
    results = section(render_model_card(facts(records)), "Results")
    for split, following in zip(SPLITS, (*SPLITS[1:], "Ranking the whole"), strict=True):
        part = results.partition(f"**{split}**")[2].partition(following)[0]
        found = records["results"][0]["splits"][split]
        lines = {line.split(" | ")[0]: line for line in part.splitlines() if line.startswith("| ")}
        named = {"| **this model**": found["metrics"]}
        named |= {f"| {name}": figures for name, figures in found["yardsticks"].items()}
        for name, figures in named.items():
            shown = [f"{figures[k]:.2f}" for k in ("R@1", "R@3", "R@5", "MRR")]
            shown.append(f"{figures['Acc']:.2f}" if "Acc" in figures else "-")
            assert lines[name] == f"{name} | {' | '.join(shown)} |"
        assert ("| this model, run without COMET" in lines) == (split == "validation")
    assert "| test_hard | R@1 | R@20 | MRR | Acc |" in results
    assert "| **this model** | 3.46 | 29.12 | 8.77 | 66.60 |" in results
    assert "| chance | 0.30 | 6.06 | 0.89 | - |" in results
    assert "| odd \\| model † | 2 | 12.35 ± 1.23 |" in results.replace("12.34 ±", "12.35 ±")
    assert "| -4.57 [-7.11, +0.22] |" in results
    assert re.search(r"\| CKS \| 1 \| 12\.3[45] \|.* 77\.77 \| - \|", results)


def test_rendering_is_a_function_of_the_records(records):
    first = render_model_card(facts(records)), render_eval_results(facts(records))
    again = whole_records()
    assert first == (render_model_card(facts(again)), render_eval_results(facts(again)))
    assert "{" not in re.sub(r"```.*?```", "", split_card(first[0])[1], flags=re.S)


MISSING = [
    ("training", "training.json", "seed"),
    ("training", "training.json", "versions"),
    ("training", "training.json", "machine.cores"),
    ("training", "training.json", "parameters.total"),
    ("training", "training.json", "recipe"),
    ("training", "training.json", "data.fingerprint"),
    ("training", "training.json", "peak_memory_mib"),
    ("config", "config.json", "id2label"),
    ("config", "config.json", "use_vkd"),
    ("processor", "processor.json", "comet"),
    ("published", "published.json", "models.cks.test_hard"),
    ("published", "published.json", "co_occurrence.percent"),
    ("published", "published.json", "setting.samples.train"),
    ("tables", "tables.json", "models.odd.splits.test_easy.MRR"),
    ("tables", "tables.json", "models.cks.title"),
    ("benchmark", "benchmark.json", "machine.cpu"),
    ("benchmark", "benchmark.json", "results[0].seconds"),
    ("statistics", "statistics.json", "splits.en.train.rows"),
    ("results", "results0.json", "splits.test_easy.metrics.R@3"),
    ("results", "results0.json", "splits.test_hard.metrics.Acc"),
    ("results", "results0.json", "splits.validation.yardsticks.chance.MRR"),
    ("results", "results0.json", "whole_set"),
    ("results", "results0.json", "time"),
]


@pytest.mark.parametrize(("record", "file", "field"), MISSING, ids=lambda value: str(value))
@pytest.mark.parametrize("how", ["left out", "null"])
def test_a_missing_value_is_named_with_its_file(records, record, file, field, how):
    *places, last = re.findall(r"[^.\[\]]+", field)
    place = records[record]
    if record == "results":
        place = place[0]
    for name in places:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if how == "null":
        place[last] = None
    else:
        del place[last]
    with pytest.raises(CardError) as error:
        render_model_card(facts(records))
    assert str(error.value) == f"{file}: there is no {field}"


def test_results_that_are_not_of_this_model_are_refused(records):
    def refused(says, change):
        spoiled = copy.deepcopy(records)
        change(spoiled["results"][1])
        with pytest.raises(CardError, match=f"^results1.json: {says}"):
            render_model_card(facts(spoiled))

    refused("recipe is not that of training.json", lambda r: r["recipe"]["model"].clear())
    refused("seed is not", lambda r: r.update(seed=0))
    refused("data.fingerprint is not", lambda r: r["data"].update(fingerprint="other"))
    refused("data.language is not", lambda r: r["data"].update(language="zh"))
    refused("is older than training.json", lambda r: r.update(time="2026-03-04T05:06:06Z"))
    refused("validation is in another", lambda r: r.update(knowledge=True))
    refused("the whole set without COMET", lambda r: r.update(whole_set=True))


def test_a_split_that_was_not_evaluated_is_asked_for(records):
    del records["results"][0]["splits"]["test_easy"]
    with pytest.raises(CardError, match=r"results0\.json.* there is no test_easy .* --split all"):
        render_model_card(facts(records))
    # Figures without COMET do not stand in for it.
    records["results"][1]["splits"] = {"test_easy": split_results(30.0)}
    with pytest.raises(CardError, match="no test_easy"):
        render_model_card(facts(records))


def test_data_of_other_splits_than_mods(records):
    """The data says what there is to evaluate on; the paper has nothing to say of it."""
    for result in records["results"][:2]:
        found = result["splits"]
        result["splits"] = {"validation": found["validation"]}
    records["results"][0]["splits"]["test"] = split_results(33.33)
    del records["results"][2], records["tables"]
    with pytest.raises(CardError, match="no test_easy, test_hard by"):
        render_model_card(facts(records))
    splits = dict.fromkeys(("train", "validation", "test"), {"rows": 7})
    records["statistics"]["splits"]["en"] = splits
    card = render_model_card(facts(records))
    assert "**test** (" in card and "test_hard" not in card and "the hard test" not in card
    paper = section(card, "Beside the paper")
    assert "| validation | R@1" in paper and "| test | R@1" not in paper
    assert "| samples, test | 1,033 | - |" in paper


def test_tables_of_other_data_are_refused(records):
    records["tables"]["data"]["fingerprint"] = "other"
    with pytest.raises(CardError, match=r"tables\.json: is of other data"):
        render_model_card(facts(records))


def test_the_hub_reads_the_metadata(records):
    card = ModelCard(render_model_card(facts(records)))
    data = card.data
    assert (data.license, data.library_name, data.language) == ("apache-2.0", "transformers", "en")
    assert data.datasets == ["org/mod"] and "stickers" in data.tags
    # Neither the local folder, nor what started from scratch, nor the COMET beside the model.
    assert data.base_model == ["owner/roberta"]
    assert data.model_name == "cks-small" and len(data.eval_results) == 15
    shown = {(r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results}
    for split in SPLITS:
        figures = records["results"][0]["splits"][split]["metrics"]
        for name in ("R@1", "R@3", "R@5", "MRR", "Acc"):
            assert shown[split, name] == round(figures[name], 2)
    assert {(r.dataset_type, r.dataset_config) for r in data.eval_results} == {("org/mod", "en")}
    entries = parse_eval_result_entries(yaml.safe_load(render_eval_results(facts(records))))
    assert [(e.dataset_id, e.task_id, e.value) for e in entries] == [
        ("org/mod", f"en_{split}", shown[split, "R@1"]) for split in SPLITS
    ]
    assert {(e.date, e.source_url) for e in entries} == {
        ("2026-03-05T00:00:00Z", "https://huggingface.co/org/cks-small")
    }


def test_data_without_a_name_on_the_hub(records):
    nameless = facts(records, dataset=None)
    card = ModelCard(render_model_card(nameless))
    assert card.data.datasets is None
    assert {r.dataset_type for r in card.data.eval_results} == {"mod"}
    assert f"data in the layout of MOD ({FINGERPRINT[:12]})" in card.text
    with pytest.raises(CardError, match="belong to a dataset on the Hub"):
        render_eval_results(nameless)


def test_what_the_parts_started_from(records):
    card = render_model_card(facts(records))
    assert "| utterance encoder | owner/roberta |" in card
    assert "| words of the multimodal encoder | bert-folder (local folder) |" in card
    assert "| visual encoder | from scratch |" in card
    assert "known to this card by the folder's name alone" in card
    trained = section(card, "How it was trained")
    # Of what was made from scratch only what was used.
    assert "| `scratch.vision_config` | patch_size: 13 |" in trained and "777" not in trained
    assert "unused-by-the-card" not in card
    assert "| `training.learning_rate` | 3e-05 |" in trained
    assert "| `training.bf16` | true |" in trained
    assert "| `early_stopping_patience` | 6 |" in trained
    differs = section(card, "Beside the paper")
    assert "| learning rate | 3e-05 | 1e-05 |" in differs
    assert "| weight decay | the library's default | 0.0003 |" in differs
    assert "| samples, train | 8,765 | 212,248 |" in differs
    records["training"]["backbones"] |= {"bert": "owner/bert"}
    assert "local folder" not in render_model_card(facts(records))


def test_the_card_says_what_this_checkpoint_lacks(records):
    def limits(**config):
        changed = copy.deepcopy(records)
        changed["config"] |= config
        if not (changed["config"]["use_keue"] and changed["config"]["use_knowledge"]):
            changed["results"] = [{**changed["results"][0], "knowledge": False}]
            changed["processor"]["comet"] = None
        return section(render_model_card(facts(changed)), "Limits and biases")

    whole = limits()
    assert "41.33 % of the time" in whole and "lacks" not in whole
    assert "**COMET** lies in this repository" in whole and "that the results show" in whole
    assert "(VKD)" in limits(use_vkd=False) and "(CIM)" in limits(use_cim=False)
    assert "**No COMET.**" in limits(use_knowledge=False)
    assert "**No COMET.**" in limits(use_keue=False)
    assert "by OCR" in whole and "by OCR" not in limits(use_ocr=False)
    del records["results"][1]
    assert "was not measured" in limits()
    records["processor"]["comet"] = "owner/comet"
    assert "**COMET** is `owner/comet`." in limits()


def test_a_yardstick_that_is_not_beaten_is_named(records):
    says = r"\*\*A yardstick is not beaten\*\* in R@1 on (.*):"
    assert not re.search(says, render_model_card(facts(records)))
    found = records["results"][0]["splits"]
    for split in ("test_easy", "test_hard"):
        figures = found[split]["metrics"]
        found[split]["yardsticks"]["most frequent sticker"]["R@1"] = figures["R@1"]
    assert re.search(says, render_model_card(facts(records)))[1] == "test_easy, test_hard"


def test_without_the_emotion_head_no_accuracy_is_asked_for(records):
    records["config"]["use_emotion"] = False
    for split in SPLITS:
        del records["results"][0]["splits"][split]["metrics"]["Acc"]
    del records["results"][1:]
    card = ModelCard(render_model_card(facts(records)))
    assert {r.metric_name for r in card.data.eval_results} == {"R@1", "R@3", "R@5", "MRR"}
    assert "| **this model** | 20.50 | 27.62 | 34.75 | 41.87 | - |" in card.text


def test_what_is_not_given_has_no_section(records):
    full = render_model_card(facts(records))
    bare = render_model_card(
        dataclasses.replace(facts(records), tables=None, benchmark=None, statistics=None)
    )
    for title in ("## Speed", "### Beside other models", "samples, train"):
        assert title in full and title not in bare


def test_answers_that_were_kept_back_are_counted(records):
    records["results"][0]["splits"]["test_hard"]["metrics"]["blank_samples"] = 909
    assert "; 909 without an answer are in no figure)" in render_model_card(facts(records))
