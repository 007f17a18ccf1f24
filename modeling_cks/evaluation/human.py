# SPDX-License-Identifier: Apache-2.0
"""Human evaluation (section 5.4.2, table 3): the criteria, and from ratings to figures.

The criteria are the paper's. Where it is unclear, this is what is asked:

- Ps@3, Ps@5: as printed. An apt sticker within the first three is one within the first five.
- Rel-d is named and scaled there, but neither defined nor printed in table 3. Here: how well the
  first three stickers fit the dialogue as a whole.
- Rel-c rates the first three stickers against "the leading three emotional utterances identified
  in the dialogue". Table 3 gives it for CLIP too, which identifies none, so the utterances are
  the dialogue's and not the rated model's: the same ones are marked for every model's stickers.
- Pe@3 is "precision at position 3 for emotion classification": whether an apt emotion is among
  those predicted. Its sentence says top 5, its name and its column 3; here three. It applies to
  models that name emotions (table 3 has none for CLIP), and is judged apart from the stickers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from .significance import Difference, paired_bootstrap

STICKERS, EMOTIONS = "stickers", "emotions"


@dataclass(frozen=True)
class Criterion:
    """What raters are asked of an answer.

    Attributes:
        of: what is rated, a ranked list of `stickers` or a set of `emotions`.
        question: in the raters' words.
        scale: what each rating means, from 0 up.
    """

    of: str
    question: str
    scale: tuple[str, ...]

    @property
    def level(self) -> str:
        """The level of measurement, as Krippendorff's alpha needs it."""
        return "nominal" if len(self.scale) == 2 else "ordinal"

    @property
    def needs_marks(self) -> bool:
        """Whether it is about marked utterances."""
        return "{marked}" in self.question


_YES_NO = ("no", "yes")
_FIT = ("not at all", "partly", "well")
CRITERIA = {
    "Ps@3": Criterion(STICKERS, "Would any of the first three be apt here?", _YES_NO),
    "Ps@5": Criterion(STICKERS, "Would any of the five be apt here?", _YES_NO),
    "Rel-d": Criterion(STICKERS, "How well do the first three fit the dialogue?", _FIT),
    "Rel-c": Criterion(STICKERS, "How well do the first three fit {marked}?", _FIT),
    "Pe@3": Criterion(EMOTIONS, "Would one of these emotions be apt here?", _YES_NO),
}
"""The paper's criteria by name; `{marked}` stands for the emotional utterances."""


@dataclass(frozen=True)
class Rating:
    """One rater's rating of one answer.

    Attributes:
        rater: who rated.
        sample: which sample of the dialogues.
        answer: which answer to it. Models that answered alike share an answer and its ratings.
        models: the names of the models that gave this answer.
        criterion: a key of `CRITERIA`.
        value: the rating.
    """

    rater: int
    sample: int
    answer: str
    models: tuple[str, ...]
    criterion: str
    value: int


def summarise(ratings: Sequence[Rating], models: Sequence[str], *, seed: int = 0) -> dict:
    """Compute each model's figures, how far the first is ahead, and how well raters agree.

    A figure is the mean over samples of the mean over raters. Intervals and tests draw samples
    with replacement, as many as there are: they say what other dialogues would change, not what
    other raters would.

    Args:
        ratings: all of them, in any order.
        models: the models' names; the first is what the others are compared with.
        seed: of the draws.

    Returns:
        `figures`: for each model and criterion that it was rated by `mean`, `low` and `high` (95 %)
        and `samples`; `ahead`: for each other model and criterion that both were rated by, a
        `Difference` in the criterion's own units, first minus other; `agreement`: see
        [`agreement`], for each criterion.

    Raises:
        ValueError: there are no ratings, or the library for the agreement is missing.
    """
    if not ratings:
        raise ValueError("there are no ratings to summarise")
    means = sample_means(ratings, models)
    samples = sorted({rating.sample for rating in ratings})

    def difference(first: np.ndarray, second: np.ndarray) -> Difference:
        return paired_bootstrap(first, second, samples, seed=seed)

    figures = {}
    for model, of in means.items():
        figures[model] = {}
        for name, values in of.items():
            # The bootstrap of a mean is that of its difference from nothing.
            found = difference(values, np.zeros_like(values))
            figures[model][name] = {
                "mean": found.mean, "low": found.low, "high": found.high, "samples": found.samples
            }  # fmt: skip
    first = means[models[0]]
    ahead = {
        model: {
            name: asdict(difference(first[name], means[model][name]))
            for name in first
            if name in means[model]
        }
        for model in models[1:]
    }
    return {
        "figures": figures,
        "ahead": ahead,
        "agreement": {
            name: agreement(ratings, name)
            for name in CRITERIA
            if any(rating.criterion == name for rating in ratings)
        },
    }


def sample_means(
    ratings: Sequence[Rating], models: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Average the raters of each sample.

    Returns:
        For each model and criterion that it was rated by an array over the rated samples in
        ascending order, NaN where a sample was not rated by the criterion.
    """
    samples = sorted({rating.sample for rating in ratings})
    places = {sample: place for place, sample in enumerate(samples)}
    sums: dict = defaultdict(lambda: np.zeros(len(samples)))
    counts: dict = defaultdict(lambda: np.zeros(len(samples)))
    for rating in ratings:
        for model in rating.models:
            sums[model, rating.criterion][places[rating.sample]] += rating.value
            counts[model, rating.criterion][places[rating.sample]] += 1
    with np.errstate(invalid="ignore"):
        return {
            model: {
                name: sums[model, name] / counts[model, name]
                for name in CRITERIA
                if (model, name) in sums
            }
            for model in models
        }


def agreement(ratings: Sequence[Rating], criterion: str) -> dict:
    """Compute Krippendorff's alpha of a criterion: nominal for yes or no, else ordinal.

    Each answer is one unit, however many models gave it.

    Returns:
        `alpha`, None where it is not defined (fewer than two raters of any answer, or all
        ratings alike), `raters` and `answers`.

    Raises:
        ValueError: the package krippendorff is missing.
    """
    try:
        import krippendorff
    except ImportError as error:
        raise ValueError(
            f'krippendorff cannot be imported ({error}); pip install "cks[evaluation]"'
        ) from error
    chosen = [rating for rating in ratings if rating.criterion == criterion]
    raters = sorted({rating.rater for rating in chosen})
    answers = sorted({(rating.sample, rating.answer) for rating in chosen})
    rows = {rater: row for row, rater in enumerate(raters)}
    columns = {answer: column for column, answer in enumerate(answers)}
    table = np.full((len(raters), len(answers)), np.nan)
    for rating in chosen:
        table[rows[rating.rater], columns[rating.sample, rating.answer]] = rating.value
    shared = table[:, (~np.isnan(table)).sum(0) > 1]
    alpha = None
    if len(np.unique(shared[~np.isnan(shared)])) > 1:
        scale = CRITERIA[criterion]
        alpha = float(
            krippendorff.alpha(
                shared,
                value_domain=list(range(len(scale.scale))),
                level_of_measurement=scale.level,
            )
        )
    return {"alpha": alpha, "raters": len(raters), "answers": len(answers)}
