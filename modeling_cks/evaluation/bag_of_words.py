# SPDX-License-Identifier: Apache-2.0
"""A classifier from words to stickers: what can be had without reading, seeing or thinking."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .evaluator import RankerOutput


class BagOfWordsRanker:
    """Logistic regression from the words of the newest utterance to the sticker's number.

    Candidates that training never saw stand below all others, in their order. A second regression
    names the emotion.
    """

    name = "bag of words"

    def __init__(self, rows: Sequence[dict], emotions: int) -> None:
        """Fit on training rows; `emotions` is the number of emotion classes.

        Raises:
            ValueError: no row has an answer.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        answered = [row for row in rows if row["sticker_id"]]
        if not answered:
            raise ValueError("a bag of words needs training rows with an answer")
        self._emotions = emotions
        self._words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\S+")
        seen = self._words.fit_transform([_text(row) for row in answered])
        self._stickers = self._fit(LogisticRegression, seen, [r["sticker_id"] for r in answered])
        labelled = [n for n, row in enumerate(answered) if row["emotion"] >= 0]
        self._feelings = None
        if labelled:
            labels = [answered[n]["emotion"] for n in labelled]
            self._feelings = self._fit(LogisticRegression, seen[labelled], labels)

    @staticmethod
    def _fit(kind, seen, labels):
        if len(set(labels)) == 1:
            from sklearn.dummy import DummyClassifier

            return DummyClassifier().fit(seen, labels)
        return kind(C=10.0, max_iter=300).fit(seen, labels)

    def rank(self, rows: list[dict]) -> RankerOutput:
        """Score each candidate by its probability given the words, -1 for one never seen."""
        seen = self._words.transform([_text(row) for row in rows])
        places = {sticker: n for n, sticker in enumerate(self._stickers.classes_)}
        chances = self._stickers.predict_proba(seen)
        scores = [
            np.array([given[places[c]] if c in places else -1.0 for c in row["candidates"]])
            for given, row in zip(chances, rows, strict=True)
        ]
        if self._feelings is None:
            return RankerOutput(scores)
        emotions = np.zeros((len(rows), self._emotions))
        emotions[:, self._feelings.classes_] = self._feelings.predict_proba(seen)
        return RankerOutput(scores, emotions, emotions)


def _text(row: dict) -> str:
    return row["utterances"][-1]["text"]
