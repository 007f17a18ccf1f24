# SPDX-License-Identifier: Apache-2.0
"""The bag of words reads the newest words and nothing else."""

import numpy as np
import pytest

from modeling_cks.evaluation import BagOfWordsRanker


def row(text, sticker=None, emotion=-1, before="hello"):
    utterances = [{"speaker": 0, "text": before}, {"speaker": 1, "text": text}]
    return {
        "utterances": utterances,
        "sticker_id": sticker,
        "emotion": emotion,
        "candidates": ["002", "000", "001", "009"],
    }


TRAIN = [row("so happy", "000", 0), row("so sad", "001", 2), row("what is it", "002")] * 5


def test_words_fetch_the_sticker_they_came_with():
    ranker = BagOfWordsRanker(TRAIN, 4)
    found = ranker.rank([row("happy"), row("sad", before="happy")])
    assert [int(scores.argmax()) for scores in found.scores] == [1, 2]
    assert all(scores[3] == -1 == scores.min() for scores in found.scores)
    assert found.emotion_given_answer.shape == (2, 4)
    assert found.emotion_given_answer.argmax(1).tolist() == [0, 2]
    np.testing.assert_allclose(found.emotion_given_answer.sum(1), 1)
    # No class was seen for these numbers: nothing is given to them.
    assert (found.emotion_given_answer[:, [1, 3]] == 0).all()


def test_one_sticker_or_no_label_is_no_trouble():
    ranker = BagOfWordsRanker([row("so happy", "000")], 4)
    found = ranker.rank([row("sad")])
    assert found.scores[0].tolist() == [-1, 1, -1, -1]
    assert found.emotion_given_answer is None
    with pytest.raises(ValueError, match="needs training rows with an answer"):
        BagOfWordsRanker([row("happy")], 4)
