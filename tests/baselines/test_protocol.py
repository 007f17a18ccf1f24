# SPDX-License-Identifier: Apache-2.0
"""What every ranker promises, tried on all of them."""

import copy

import numpy as np
import pytest
import torch
from small_world import rows, stickers, world
from tiny_baselines import SETTINGS, samples, tiny_baseline

from modeling_cks.baselines import BASELINES, load_baseline
from modeling_cks.baselines.trainer import BaselineTrainer
from modeling_cks.cks_ranker import CKSRanker
from modeling_cks.evaluation import (
    BagOfWordsRanker,
    ChanceRanker,
    MostFrequentRanker,
    evaluate_ranker,
)
from modeling_cks.training import CKSTrainingArguments

YARDSTICKS = ("chance", "most frequent", "bag of words")
NAMES_EMOTIONS = ("cks", "mmbert", "mod_gpt", "most frequent", "bag of words")


def ranker_of(kind, folder):
    if kind == "cks":
        model, processor, inventory = world(folder)
        return CKSRanker(model, processor, inventory, knowledge=False)
    if kind == "chance":
        return ChanceRanker()
    if kind == "most frequent":
        return MostFrequentRanker(
            *zip(*((r["sticker_id"], r["emotion"]) for r in rows()), strict=True)
        )
    if kind == "bag of words":
        return BagOfWordsRanker(rows(), 4)
    return tiny_baseline(kind, folder)


every_ranker = pytest.mark.parametrize("kind", ("cks", *BASELINES, *YARDSTICKS))
every_baseline = pytest.mark.parametrize("kind", BASELINES)


def test_every_baseline_is_tried():
    assert set(SETTINGS) == set(BASELINES)


@every_ranker
def test_rows_give_scores_and_emotions(kind, tmp_path):
    given = rows(7)
    found = ranker_of(kind, tmp_path).rank(given)
    assert [scores.shape for scores in found.scores] == [(4,)] * 7
    assert all(np.isfinite(scores).all() for scores in found.scores)
    named = (found.emotion_given_answer, found.emotion_given_top)
    if kind in NAMES_EMOTIONS:
        assert all(each.shape == (7, 4) for each in named)
    else:
        assert named == (None, None)


@every_ranker
def test_a_batch_equals_its_singles(kind, tmp_path):
    ranker, given = ranker_of(kind, tmp_path), rows(9)
    together = ranker.rank(given)
    for number, row in enumerate(given):
        alone = ranker.rank([row])
        np.testing.assert_allclose(together.scores[number], alone.scores[0], atol=1e-5)
        if together.emotion_given_answer is not None:
            for field in ("emotion_given_answer", "emotion_given_top"):
                one, many = getattr(alone, field)[0], getattr(together, field)[number]
                np.testing.assert_allclose(many, one, atol=1e-5)


@pytest.mark.parametrize("kind", ("cks", *BASELINES, "most frequent", "bag of words"))
def test_turning_candidates_turns_scores(kind, tmp_path):
    ranker, given = ranker_of(kind, tmp_path), rows(6)
    turned = [{**row, "candidates": row["candidates"][::-1]} for row in given]
    for there, back in zip(ranker.rank(given).scores, ranker.rank(turned).scores, strict=True):
        np.testing.assert_allclose(there, back[::-1], atol=1e-5)


@every_ranker
def test_the_answer_is_no_secret_told(kind, tmp_path):
    # Scores must not depend on which candidate is right, on the label, or on its emotion.
    ranker, given = ranker_of(kind, tmp_path), rows(6)
    other = [
        {**row, "sticker_id": next(c for c in row["candidates"] if c != row["sticker_id"]),
         "emotion": -1}
        for row in given
    ]  # fmt: skip
    for told, untold in zip(ranker.rank(given).scores, ranker.rank(other).scores, strict=True):
        np.testing.assert_array_equal(told, untold)


@every_ranker
def test_the_evaluator_takes_it(kind, tmp_path):
    found = evaluate_ranker(ranker_of(kind, tmp_path), rows(), batch_size=5, progress=False)
    assert found.metrics["samples"] == 12
    assert ("Acc" in found.metrics) == (kind in NAMES_EMOTIONS)


@pytest.mark.parametrize("kind", ("cks", *BASELINES))
def test_what_was_said_last_matters_and_what_is_too_old_does_not(kind, tmp_path):
    ranker = ranker_of(kind, tmp_path)
    dialogue = [
        {"speaker": n % 2, "text": text, "sticker_id": None, "emotion": None}
        for n, text in enumerate(["you make me angry"] * 30 + ["oh no , that is sad"])
    ]
    row = {**rows(1)[0], "utterances": dialogue}
    newest, oldest = copy.deepcopy(row), copy.deepcopy(row)
    newest["utterances"][-1]["text"] = "thank you so much"
    oldest["utterances"][0]["text"] = "thank you so much"
    kept, new, old = (found for found in ranker.rank([row, newest, oldest]).scores)
    np.testing.assert_allclose(kept, old, atol=1e-5)
    assert np.abs(kept - new).max() > 1e-4


def trainer_of(baseline, folder, **fields):
    arguments = CKSTrainingArguments(
        **{
            "output_dir": str(folder), "per_device_train_batch_size": 12, "max_steps": 25,
            "learning_rate": 3e-3, "lr_scheduler_type": "constant", "logging_steps": 1,
            "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
            "seed": 3, **fields,
        }
    )  # fmt: skip
    return BaselineTrainer(baseline, arguments, samples(baseline), rows())


def train(baseline, folder, **fields):
    torch.manual_seed(0)
    trainer = trainer_of(baseline, folder, **fields)
    trainer.train()
    return trainer


@every_baseline
def test_training_lowers_the_loss(kind, tmp_path):
    baseline = tiny_baseline(kind, tmp_path)
    before = [scores.copy() for scores in baseline.rank(rows()).scores]
    trainer = train(baseline, tmp_path / "run")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 25
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    # What was cached of stickers before training is not what ranks after it.
    after = baseline.rank(rows()).scores
    baseline.forget_stickers()
    fresh = baseline.rank(rows()).scores
    np.testing.assert_allclose(np.stack(after), np.stack(fresh), atol=1e-6)
    assert np.abs(np.stack(after) - np.stack(before)).max() > 1e-3
    assert trainer.evaluate()["eval_samples"] == 12


@every_baseline
def test_saved_and_loaded_it_scores_the_same(kind, tmp_path):
    baseline = tiny_baseline(kind, tmp_path)
    train(baseline, tmp_path / "run", max_steps=2)
    baseline.eval()
    baseline.save_pretrained(tmp_path / "saved")
    loaded = load_baseline(tmp_path / "saved")
    loaded.use_stickers(stickers())
    ours, theirs = baseline.rank(rows()), loaded.rank(rows())
    np.testing.assert_array_equal(np.stack(ours.scores), np.stack(theirs.scores))
    if ours.emotion_given_answer is not None:
        np.testing.assert_array_equal(ours.emotion_given_answer, theirs.emotion_given_answer)
    assert loaded.name == baseline.name


@every_baseline
def test_a_stopped_training_goes_on_to_the_same_end(kind, tmp_path):
    whole, halves = (tiny_baseline(kind, tmp_path) for _ in range(2))
    fields = {"per_device_train_batch_size": 6, "max_steps": 4}
    train(whole, tmp_path / "whole", **fields)
    saving = {**fields, "save_strategy": "steps", "save_steps": 2}
    trainer = train(halves, tmp_path / "halves", **saving)
    again = tiny_baseline(kind, tmp_path)
    resumed = BaselineTrainer(again, trainer.args, samples(again), rows())
    resumed.train(resume_from_checkpoint=str(tmp_path / "halves" / "checkpoint-2"))
    for each in (whole, again):
        each.eval()
    np.testing.assert_allclose(
        np.stack(whole.rank(rows()).scores), np.stack(again.rank(rows()).scores), atol=1e-6
    )


@every_baseline
def test_pretrained_parts_can_have_a_rate_of_their_own(kind, tmp_path):
    trainer = trainer_of(
        tiny_baseline(kind, tmp_path), tmp_path / "run", backbone_learning_rate=1e-4
    )
    trainer.create_optimizer()
    rates = {
        id(parameter): group["lr"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    learning = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(rates) == {id(parameter) for parameter in learning.values()}
    pretrained = {n for n, p in learning.items() if rates[id(p)] == 1e-4}
    assert pretrained == {n for n in learning if n.startswith(trainer.model.pretrained)}
    assert all(rates[id(learning[n])] == 3e-3 for n in set(learning) - pretrained)
    # Each name means something, also where that part is frozen.
    for beginning in trainer.model.pretrained:
        assert any(n.startswith(beginning) for n, _ in trainer.model.named_parameters()), beginning


@every_baseline
def test_names_that_lead_nowhere_are_one_line(kind, tmp_path):
    from modeling_cks.baselines import baseline_class

    text, vision = (str(tmp_path / name) for name in ("no_text", "no_vision"))
    with pytest.raises(ValueError, match="no_text|no_vision") as caught:
        baseline_class(kind).build(emotions=["joy"], text=text, vision=vision)
    assert "\n" not in str(caught.value)
