# SPDX-License-Identifier: Apache-2.0
"""Find the numbers of a card that stand in none of the records it was made of."""

import re
from collections.abc import Iterable, Iterator, Mapping

import yaml

_NUMBER = re.compile(r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
_CODE = re.compile(r"^```.*?^```$", re.M | re.S)
# What the templates themselves say: the year of a conference, MRR's cut, the two speakers, the
# licence of the code.
TEMPLATE_SAYS = {"24", "10", "0", "1"}
TEMPLATE_NAMES = {"Apache-2.0"}


def leaves(value) -> Iterator:
    """Yield keys, values, and how many things a list holds."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield key
            yield from leaves(one)
    elif isinstance(value, (list, tuple)):
        yield len(value)
        for one in value:
            yield from leaves(one)
    elif value is not None and not isinstance(value, bool):
        yield value


def split_card(card: str) -> tuple[dict, str]:
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def numbers_in(text: str, known: Iterable[str] = ()) -> list[str]:
    """List the numbers of a text, those within known words aside."""
    text = _CODE.sub(" ", text).replace("\\|", "|")
    # Words with digits in them, such as versions and names; not figures written as text.
    named = {word for word in known if re.search(r"\d", word) and not _NUMBER.fullmatch(word)}
    for word in sorted(named, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", text)
    return _NUMBER.findall(text)


def unexplained(card: str, *records) -> list[str]:
    """Return the numbers of a card that no record holds, rounded as they are shown."""
    held = [leaf for record in records for leaf in leaves(record)]
    words = [leaf for leaf in held if isinstance(leaf, str)] + [*TEMPLATE_NAMES]
    figures = {float(leaf) for leaf in held if isinstance(leaf, (int, float))}
    front, body = split_card(card)

    def is_held(shown: str) -> bool:
        shown = shown.replace(",", "")
        if shown.lstrip("+-") in TEMPLATE_SAYS or shown in words:
            return True
        if "e" in shown:
            return float(shown) in figures
        places = len(shown.partition(".")[2])
        return any(f"{figure:.{places}f}" == shown.lstrip("+") for figure in figures)

    shown = numbers_in(body, words)
    shown += [str(leaf) for leaf in leaves(front) if isinstance(leaf, (int, float))]
    assert shown
    return [one for one in shown if not is_held(one)]
