# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from small_world import rows, stickers, world

from dataset_mod.sampling import NegativeSampler
from modeling_cks.training import CKSCollator, StickerInventory, TrainingSamples
from modeling_cks.training.collator import DialogueSampler


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return world(tmp_path_factory.mktemp("world"))


def test_a_training_batch_holds_each_sticker_once(made):
    _, processor, inventory = made
    samples = TrainingSamples(rows(), NegativeSampler(inventory.ids, inventory.emotions, 1))
    chosen = [samples[n] for n in (0, 5, 6, 9)]
    batch = CKSCollator(processor, inventory, knowledge=False)(chosen)
    numbers = batch["sticker_ids"].tolist()
    assert len(set(numbers)) == len(numbers) == len(batch["pixel_values"])
    named = [inventory.ids[number] for number in numbers]
    assert [named[p] for p in batch["positive"]] == [row["sticker_id"] for row in chosen]
    assert [named[p] for p in batch["negative"]] == [row["negative"] for row in chosen]
    wanted = [row["emotion"] if row["emotion"] >= 0 else -100 for row in chosen]
    assert batch["emotion_labels"].tolist() == wanted and -100 in wanted
    for row, places in zip(chosen, batch["history"].tolist(), strict=True):
        told = [turn["sticker_id"] for turn in row["utterances"]]
        assert [None if p < 0 else named[p] for p in places[: len(told)]] == told
        assert all(p == -1 for p in places[len(told) :])
    used = {*batch["positive"].tolist(), *batch["negative"].tolist(),
            *batch["history"].flatten().tolist()} - {-1}  # fmt: skip
    assert used == set(range(len(numbers)))


def test_a_ranking_batch_keeps_the_order_of_candidates(made):
    _, processor, inventory = made
    chosen = rows()[:3]
    chosen[1]["candidates"] = chosen[1]["candidates"][:2]
    batch = CKSCollator(processor, inventory, knowledge=False, pixels=False)(chosen)
    assert "pixel_values" not in batch and "positive" not in batch
    named = [inventory.ids[n] for n in batch["sticker_ids"].tolist()]
    found = [[named[p] for p in row if p >= 0] for row in batch["candidates"].tolist()]
    assert found == [row["candidates"] for row in chosen]


def test_pixels_and_words_equal_the_processors(made):
    _, processor, inventory = made
    table = stickers()
    wanted = processor.encode_stickers(list(table["image"]), list(table["caption"]))
    got = inventory.pixel_values(range(6))
    # Kept as bytes, as resizing makes them: no more than a rounding away.
    assert (got - wanted["pixel_values"]).abs().max() < 0.02
    torch.testing.assert_close(inventory.words(range(6))["ocr_input_ids"], wanted["ocr_input_ids"])


def test_the_newest_utterances_are_kept_with_their_stickers(made):
    _, processor, inventory = made
    row = rows()[2]
    turns = [
        {"speaker": n % 2, "text": "oh no", "sticker_id": "002" if n in (1, 4) else None}
        for n in range(10)
    ]
    batch = CKSCollator(processor, inventory, knowledge=False)([{**row, "utterances": turns}])
    assert batch["history"].shape == (1, 8)
    assert (batch["history"] >= 0).tolist() == [[n == 2 for n in range(8)]]


def test_negatives_are_fresh_each_epoch_and_repeat(made):
    _, _, inventory = made
    samples = TrainingSamples(rows(), NegativeSampler(inventory.ids, inventory.emotions, 1))
    drawn = []
    for epoch in (0, 1, 0):
        samples.set_epoch(epoch)
        drawn.append([samples[n]["negative"] for n in range(len(samples))])
    assert drawn[0] == drawn[2] != drawn[1]
    emotion = dict(zip(inventory.ids, inventory.emotions, strict=True))
    for row, negative in zip(rows(), drawn[0], strict=True):
        assert emotion[negative] != emotion[row["sticker_id"]]


def test_workers_that_live_on_see_the_next_epoch(made):
    _, _, inventory = made
    samples = TrainingSamples(rows(), NegativeSampler(inventory.ids, inventory.emotions, 1))
    loader = torch.utils.data.DataLoader(
        samples, batch_size=4, num_workers=1, persistent_workers=True,
        collate_fn=lambda batch: [row["negative"] for row in batch],
    )  # fmt: skip
    found = []
    for epoch in (0, 1):
        samples.set_epoch(epoch)
        found.append(sum(loader, []))
        assert found[-1] == [samples[n]["negative"] for n in range(len(samples))]
    assert found[0] != found[1]


def test_dialogue_sampler():
    names = [row["dialogue_id"] for row in rows()]
    sampler = DialogueSampler(names, seed=4)
    first = list(sampler)
    assert sorted(first) == list(range(12)) and len(sampler) == 12
    groups = [{names[n] for n in first[start : start + 3]} for start in range(0, 12, 3)]
    assert all(len(group) == 1 for group in groups)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(DialogueSampler(names, seed=5)) != first


def test_bad_tables_and_ids(made):
    _, processor, inventory = made
    with pytest.raises(ValueError, match="no sticker '999'"):
        inventory.place("999")
    table = stickers()
    with pytest.raises(ValueError, match="empty"):
        StickerInventory(table.select([]), processor)
    with pytest.raises(ValueError, match="twice"):
        StickerInventory(table.select([0, 0]), processor)
