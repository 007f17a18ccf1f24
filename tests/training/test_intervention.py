# SPDX-License-Identifier: Apache-2.0
from collections import Counter

import pytest
from small_world import EMOTIONS, rows

from dataset_mod.bias import EmotionalWord, EmotionalWords
from dataset_mod.sampling import NegativeSampler
from modeling_cks.training import CKSTrainingArguments, TrainingSamples, WordIntervention

# How often training says them: P(w) of the draws.
COUNTS = {"happy": (0, 60), "glad": (0, 20), "surprise": (1, 20), "sad": (2, 100)}


def words():
    entries = {w: EmotionalWord(w, emotion, count) for w, (emotion, count) in COUNTS.items()}
    return EmotionalWords(entries, ["joy", "surprise", "sadness"])


def drawn(intervention, text, count):
    """Rewrite `count` utterances that say the same, and take the last word of each."""
    return [intervention.rewrite(text, f"d/{n}", 0).split()[-1] for n in range(count)]


def test_drawn_words_follow_their_own_distribution_whatever_stood_there():
    wanted = {word: count / 200 for word, (_, count) in COUNTS.items()}
    for word in ("glad", "sad"):
        found = Counter(drawn(WordIntervention(words(), 1.0, 3), f"so {word}", 4000))
        for other, share in wanted.items():
            if COUNTS[other][0] == COUNTS[word][0]:
                continue  # a word that has the drawn emotion already stays
            assert found[other] / 4000 == pytest.approx(share, abs=0.025)
        same = sum(found[w] for w in COUNTS if COUNTS[w][0] == COUNTS[word][0]) / 4000
        emotion = COUNTS[word][0]
        of_emotion = sum(wanted[w] for w in COUNTS if COUNTS[w][0] == emotion)
        assert same == pytest.approx(of_emotion, abs=0.025)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_probability_is_that_of_an_utterance(probability):
    intervention = WordIntervention(words(), probability, 3)
    # Half of the draws give the word's own emotion back: they do not show.
    changed = sum(word != "sad" for word in drawn(intervention, "so sad", 4000)) / 4000
    assert changed == pytest.approx(probability / 2, abs=0.025)


def test_words_and_labels_are_independent_afterwards_and_were_not_before():
    said = [(n, "I am sad" if n % 10 else "I am happy") for n in range(3000)]
    labels = {n: "sad" if n % 10 else "happy" for n, _ in said}
    intervention = WordIntervention(words(), 1.0, 5)
    share = {}
    for label in ("sad", "happy"):
        texts = [intervention.rewrite(t, f"d/{n}", 0) for n, t in said if labels[n] == label]
        share[label] = sum(text.endswith("sad") for text in texts) / len(texts)
    assert share["sad"] == pytest.approx(share["happy"], abs=0.06)
    assert share["sad"] == pytest.approx(0.5, abs=0.03)


def test_the_samples_of_a_dialogue_share_their_utterances():
    row, later = rows()[0], rows()[1]
    later["utterances"] = [*row["utterances"], {**row["utterances"][0], "text": "what a surprise"}]
    row["dialogue_id"] = later["dialogue_id"]
    intervention = WordIntervention(words(), 1.0, 3)
    for epoch in range(3):
        first, second = intervention(row, epoch), intervention(later, epoch)
        assert second["utterances"][: len(first["utterances"])] == first["utterances"]


def test_the_draws_repeat_and_change_with_epoch_seed_and_dialogue():
    text = "sad sad sad sad sad sad sad sad"

    def draw(seed=1, name="a/0", epoch=0):
        return WordIntervention(words(), 1.0, seed).rewrite(text, name, epoch)

    assert draw() == draw()
    several = {draw(epoch=n) for n in range(4)} | {draw(seed=n) for n in range(20, 24)}
    assert len(several | {draw(name=f"{n}/0") for n in range(4)}) > 6
    again = WordIntervention(words(), 1.0, 1).variants
    assert draw(epoch=again) == draw(epoch=0) and len({draw(epoch=n) for n in range(again)}) > 1


def test_what_is_no_emotional_word_stays_and_so_do_row_and_label():
    row = rows()[0]
    row["utterances"][0]["text"] = "HAPPY, oh happy day!"
    before = [dict(turn) for turn in row["utterances"]]
    changed = WordIntervention(words(), 1.0, 2)(row, 0)
    assert row["utterances"] == before
    assert {k: v for k, v in changed.items() if k != "utterances"} == {
        k: v for k, v in row.items() if k != "utterances"
    }
    said = changed["utterances"][0]["text"]
    shout, _, rest = said.partition(", oh ")
    assert shout.isupper() and rest.endswith(" day!")
    assert [turn["sticker_id"] for turn in changed["utterances"]] == [
        turn["sticker_id"] for turn in before
    ]


def test_training_samples_carry_the_words_of_their_epoch():
    ids = [f"{n:03}" for n in range(6)]
    intervention = WordIntervention(words(), 1.0, 2)
    samples = TrainingSamples(rows(), NegativeSampler(ids, EMOTIONS, 1), intervention)
    seen = set()
    for epoch in range(6):
        samples.set_epoch(epoch)
        for number, row in enumerate(rows()):
            got = samples[number]
            assert got["utterances"] == intervention(row, epoch)["utterances"]
            seen |= {(turn["speaker"], turn["text"]) for turn in got["utterances"]}
    # What is encoded ahead is what the epochs will say, no more and no less.
    assert set(samples.utterances(9, epochs=6)) == seen
    assert set(samples.utterances(9)) < seen
    plain = TrainingSamples(rows(), NegativeSampler(ids, EMOTIONS, 1))
    assert plain[0]["utterances"] == rows()[0]["utterances"]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"word_intervention is 1.5"):
        WordIntervention(words(), 1.5, 0)
    with pytest.raises(ValueError, match="there is none"):
        WordIntervention(EmotionalWords({}, ["joy"]), 0.5, 0)
    assert CKSTrainingArguments(output_dir=str(tmp_path)).word_intervention == 0.0
