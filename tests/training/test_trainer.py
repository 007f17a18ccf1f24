# SPDX-License-Identifier: Apache-2.0
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_world import rows, trainer, world
from transformers import EarlyStoppingCallback

from modeling_cks.cks_ranker import CKSRanker
from modeling_cks.evaluation.evaluator import evaluate_ranker
from modeling_cks.training import CKSTrainer
from modeling_cks.training.trainer import BACKBONES

HERE = Path(__file__).resolve().parent
PARTS = {"match_loss": 1, "contrastive_loss": 1, "emotion_loss": 0.5, "triplet_loss": 0.3}


def test_every_loss_is_logged_and_they_add_up(tmp_path):
    made = trainer(tmp_path, tmp_path / "out", gradient_accumulation_steps=3, logging_steps=1)
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    made.train()
    logs = [log for log in made.state.log_history if "loss" in log]
    assert len(logs) == 2
    for log in logs:
        total = sum(weight * log[name] for name, weight in PARTS.items())
        assert log["loss"] == pytest.approx(total, abs=2e-3)
    assert any(not torch.equal(before[n], p) for n, p in made.model.named_parameters())


def test_each_epoch_has_its_own_negatives(tmp_path):
    made = trainer(tmp_path, tmp_path / "out", num_train_epochs=3, dataloader_num_workers=0)
    epochs = []
    draw = made.train_dataset.sampler.draw
    made.train_dataset.sampler.draw = lambda i, p, epoch: epochs.append(epoch) or draw(i, p, epoch)
    made.train()
    assert epochs == [0] * 12 + [1] * 12 + [2] * 12


def test_dialogues_stay_together_in_another_order_each_epoch(tmp_path):
    made = trainer(
        tmp_path, tmp_path / "out", group_by_dialogue=True, per_device_train_batch_size=3
    )
    seen = []
    collate = made.data_collator
    made.data_collator = lambda batch: (
        seen.append([r["dialogue_id"] for r in batch]) or collate(batch)
    )
    made.train()
    assert len(seen) == 8 and all(len(set(batch)) == 1 for batch in seen)
    order = [batch[0] for batch in seen]
    assert sorted(order[:4]) == sorted(order[4:]) and order[:4] != order[4:]


def test_frozen_parameters_stay_and_two_rates_are_given(tmp_path):
    made = trainer(
        tmp_path, tmp_path / "out", freeze=["text_encoder.embeddings", "visual_extractor.clip."],
        backbone_learning_rate=1e-5, weight_decay=0.1, max_steps=2,
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    frozen = [
        n for n in before if n.startswith(("text_encoder.embeddings", "visual_extractor.clip."))
    ]
    assert made.frozen_parameters == sum(before[n].numel() for n in frozen) > 0
    made.create_optimizer()
    rates = {}
    names = {id(p): n for n, p in made.model.named_parameters()}
    for group in made.optimizer.param_groups:
        for parameter in group["params"]:
            rates[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    assert set(rates) == set(before) - set(frozen)
    for name, (rate, decay) in rates.items():
        assert rate == (1e-5 if name.startswith(BACKBONES) else 1e-3), name
        if name.endswith("bias"):
            assert decay == 0, name
    made.train()
    for name, parameter in made.model.named_parameters():
        if name in frozen:
            assert torch.equal(before[name], parameter), name
    trained = made.model.text_encoder.encoder.layer[0].output.dense.weight
    assert not torch.equal(before["text_encoder.encoder.layer.0.output.dense.weight"], trained)
    with pytest.raises(ValueError, match="freeze: .*'clip'"):
        trainer(tmp_path / "b", tmp_path / "out", freeze=["clip"])


def test_evaluation_is_the_evaluators(tmp_path):
    made = trainer(tmp_path, tmp_path / "out", eval_rows=rows(seed=8), per_device_eval_batch_size=5)
    made.model.train()
    found = made.evaluate()
    found.pop("epoch")
    assert made.model.training  # as it was
    ranker = CKSRanker(made.model, made.processor, made.inventory, knowledge=False)
    wanted = evaluate_ranker(ranker, rows(seed=8), batch_size=2, progress=False).metrics
    assert {f"eval_{key}": value for key, value in wanted.items()} == pytest.approx(found)


def test_the_ranker_equals_the_model_row_by_row(tmp_path):
    model, processor, inventory = world(tmp_path)
    output = CKSRanker(model, processor, inventory, knowledge=False).rank(rows())
    table = {sticker: place for place, sticker in enumerate(inventory.ids)}
    pixels = inventory.pixel_values(range(6))
    for row, scores, emotion, top in zip(
        rows(), output.scores, output.emotion_given_answer, output.emotion_given_top, strict=True
    ):
        tensors = processor.encode_dialogues([row["utterances"]], knowledge=False)
        history = [
            -1 if t["sticker_id"] is None else table[t["sticker_id"]] for t in row["utterances"]
        ]
        with torch.no_grad():
            wanted = model(
                **tensors, history=torch.tensor([history]), pixel_values=pixels,
                **inventory.words(range(6)),
                candidates=torch.tensor([[table[c] for c in row["candidates"]]]),
            )  # fmt: skip
        torch.testing.assert_close(torch.tensor(scores), wanted.scores[0], atol=1e-5, rtol=1e-4)
        shares = wanted.candidate_emotion_logits[0].softmax(-1).numpy()
        assert emotion == pytest.approx(
            shares[row["candidates"].index(row["sticker_id"])], abs=1e-5
        )
        assert top == pytest.approx(shares[int(wanted.scores[0].argmax())], abs=1e-5)


def test_the_ranker_weighs_each_utterance_and_with_zero_what_it_did_not_read(tmp_path):
    model, processor, inventory = world(tmp_path)
    ranker = CKSRanker(model, processor, inventory, knowledge=False)
    short, long = rows()[:2]
    turn = {**short["utterances"][0], "sticker_id": None}
    said = [{**turn, "speaker": n % 2} for n in range(processor.max_utterances + 3)]
    few, many = ranker.rank([short, {**long, "utterances": said}]).utterance_weights
    assert len(many) == len(said) and not many[:3].any()
    for row, weights in ((short, few), ({**long, "utterances": said[3:]}, many[3:])):
        (alone,) = ranker.rank([row]).utterance_weights
        assert alone == pytest.approx(weights, abs=1e-5)
        # A share of one over the speaker's own utterances, and one over the other's.
        assert weights.min() > 0 and weights.sum() == pytest.approx(2, abs=1e-5)
    without, processor, inventory = world(tmp_path / "without", use_keue=False)
    ranker = CKSRanker(without, processor, inventory, knowledge=False)
    assert ranker.rank([short]).utterance_weights is None


def test_the_best_checkpoint_is_kept_and_patience_ends(tmp_path, monkeypatch):
    figures = iter([20.0, 50.0, 40.0, 30.0, 10.0, 5.0])

    def evaluate(self, *_, **__):
        metrics = {"eval_R@1": next(figures)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    monkeypatch.setattr(CKSTrainer, "evaluate", evaluate)
    made = trainer(
        tmp_path, tmp_path / "out", eval_rows=rows(), num_train_epochs=6, eval_strategy="epoch",
        save_strategy="epoch", save_total_limit=2, load_best_model_at_end=True,
        metric_for_best_model="R@1", greater_is_better=True,
    )  # fmt: skip
    made.add_callback(EarlyStoppingCallback(early_stopping_patience=2))
    made.train()
    assert made.state.epoch == 4
    assert made.state.best_model_checkpoint.endswith("checkpoint-6")
    assert made.state.best_metric == 50.0
    kept = type(made.model).from_pretrained(made.state.best_model_checkpoint)
    for name, value in made.model.state_dict().items():
        assert torch.equal(kept.state_dict()[name], value), name


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("step", [3, 4])  # the end of an epoch, and its middle
def test_resumed_training_is_bit_equal(tmp_path, step, group):
    options = {"num_train_epochs": 3, "group_by_dialogue": group, "learning_rate": 1e-3}
    whole = trainer(tmp_path / "a", tmp_path / "whole", **options)
    whole.train()
    first = trainer(
        tmp_path / "b", tmp_path / "parts", save_strategy="steps", save_steps=step, **options
    )
    first.train()
    later = trainer(tmp_path / "c", tmp_path / "parts", **options)
    assert not torch.equal(later.model.logit_scale, whole.model.logit_scale)
    later.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{step}"))
    assert later.state.global_step == whole.state.global_step == 9
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), later.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name


PROGRAM = """
import sys
sys.path[:0] = {paths!r}
import torch, torch.nn as nn
from pathlib import Path
from small_world import trainer
from modeling_cks.training import CKSTrainer
import modeling_cks.visual_extractor as visual

torch.set_num_threads(1)
class Recording(CKSTrainer):
    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.gradients = {{n: p.grad.clone() for n, p in self.model.named_parameters()}}
        self.labels = int((inputs["emotion_labels"] != -100).sum())
        return loss

processes = int(sys.argv[2])
# Restyling draws per sticker of a batch, dropout per sample: both would differ by the split.
visual.ContentInvariantModule.forward = lambda self, pixels, noise=None: 0.5 * pixels + 0.1
made = trainer(
    Path(sys.argv[1]) / "world", Path(sys.argv[1]) / "out", kind=Recording, max_steps=1,
    per_device_train_batch_size=12 // processes, max_grad_norm=0.0,
    model_fields={{"fusion_dropout": 0.0, **{fields!r}}}, learning_rate=0.0,
    ddp_backend="gloo" if processes > 1 else None,
)
for module in made.model.modules():
    if isinstance(module, nn.Dropout):
        module.p = 0.0
made._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(made.train_dataset)
made.train()
log = [log for log in made.state.log_history if "loss" in log][0]
file = f"{{sys.argv[1]}}/gradients-{{made.args.process_index}}.pt"
torch.save((made.gradients, log, made.labels), file)
"""


@pytest.mark.parametrize("fields", [{}, {"negative_visual": "clip"}])
def test_two_processes_give_the_gradients_of_one(tmp_path, fields):
    script = tmp_path / "step.py"
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]
    script.write_text(PROGRAM.format(paths=paths, fields=fields))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    found = {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        launch = [sys.executable]
        if processes > 1:
            launch += ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        done = subprocess.run(
            [*launch, str(script), str(folder), str(processes)], env=environment, cwd=tmp_path,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = [torch.load(folder / f"gradients-{n}.pt") for n in range(processes)]
    ((wanted, log, labels),) = found[1]
    assert labels == 7 and sorted(part[2] for part in found[2]) == [1, 6]
    for gradients, _, _ in found[2]:
        assert gradients.keys() == wanted.keys()
        for name in wanted:
            torch.testing.assert_close(
                gradients[name],
                wanted[name],
                atol=1e-5,
                rtol=1e-4,
                msg=lambda m, n=name: f"{n}: {m}",
            )
        assert max(float(value.abs().max()) for value in gradients.values()) > 1e-2
    # What is logged is that of the whole batch, too.
    for name in PARTS:
        assert found[2][0][1][name] == pytest.approx(log[name], abs=2e-4), name


def test_a_frozen_clip_sees_each_sticker_once_and_training_is_the_same(tmp_path, monkeypatch):
    fields = {"freeze": ["visual_extractor.clip."], "max_steps": 3}
    seen = []

    def run(folder):
        made = trainer(tmp_path, folder, **fields)
        clip = made.model.visual_extractor.clip
        clip.register_forward_pre_hook(
            lambda module, given, named: seen.append(len(named["pixel_values"])), with_kwargs=True
        )
        made.train()
        return made.model.state_dict()

    known = run(tmp_path / "known")
    # The whole inventory once, and in each step the restyled stickers alone.
    assert seen[0] == 6 and len(seen) == 1 + 3
    monkeypatch.setattr("modeling_cks.training.trainer._clip_embeds", lambda *given: None)
    anew = run(tmp_path / "anew")
    assert len(seen) == 1 + 3 + 2 * 3
    for name, value in known.items():
        torch.testing.assert_close(value, anew[name], atol=1e-6, rtol=0, msg=name)
