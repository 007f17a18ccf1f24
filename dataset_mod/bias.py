# SPDX-License-Identifier: Apache-2.0
"""Does a data set pair words, stickers and emotions so that a model can lean on the words alone?

**Words of emotional preference** are found from the training split by association: a word is
*emotional* if samples that have it are of one emotion clearly more often than all samples are
(`find_emotional_words`). A user's lexicon joins or replaces what is found. Association cannot tell
why a word goes with an emotion: "died" describes what makes people sad, "sad" in the name of a song
does not, and both are found. Who wants to know what a model does with the second kind alone gives
those words as a lexicon.

**Which words count** for a sample: by default those of its newest *episode*, all utterances since
the last turn that carried a sticker. So no utterance counts for two samples, and what was said
about an earlier sticker is left alone. Where an emotion label is about the last turn alone,
`scope="turn"` finds more words that hold on other splits; `bias_report.py` shows whether they do.

**Groups**: a sample is *bias-aligned* if its words point to its label, *bias-conflicting* if they
point elsewhere, *neutral* if they point nowhere (`group_of` has the rule). A sample without a label
has no group. In the training split groups and words come from the same labels, so words that were
found agree there a little too often; other splits are free of that.

Words are sequences of letters in lower case; of Chinese and Japanese, single characters and pairs.
"""

from __future__ import annotations

from dataset_mod.bias_marks import load_marks, load_words, with_bias, write_marks
from dataset_mod.bias_search import associate, find_emotional_words, read_lexicon
from dataset_mod.bias_words import (
    ALIGNED,
    CONFLICTING,
    GROUPS,
    NEUTRAL,
    SCOPES,
    EmotionalWord,
    EmotionalWords,
    episode,
    group_of,
)

__all__ = [
    "ALIGNED",
    "CONFLICTING",
    "GROUPS",
    "NEUTRAL",
    "SCOPES",
    "EmotionalWord",
    "EmotionalWords",
    "associate",
    "episode",
    "find_emotional_words",
    "group_of",
    "load_marks",
    "load_words",
    "read_lexicon",
    "with_bias",
    "write_marks",
]
