# SPDX-License-Identifier: Apache-2.0
"""What people say in MOD-mini: events, words of emotional preference, fillers, common sense.

An *event* causes exactly one emotion and names none ("my bike was stolen"). A *carrier* holds one
emotional word and says nothing about how its speaker feels ("that cheerful song is still in my
head"). Everything else is worded so that it tells nothing either.

Placeholders of an event: {I} {me} {my} stand for whom it happens to, so that the same event
is told by its owner ("my bike was stolen"), by the other speaker ("I heard that your bike was
stolen") and, for ATOMIC, of PersonX. All texts are by the authors of this package, CC0.
"""

from __future__ import annotations

import itertools
import json
import string

EMOTIONS = ("neutral", "joy", "surprise", "anger", "sadness", "fear", "disgust")

WORDS = {
    "neutral": ("ordinary", "plain", "usual", "regular", "common"),
    "joy": ("happy", "cheerful", "joyful", "merry", "funny"),
    "surprise": ("surprising", "astonishing", "amazing", "stunning", "startling"),
    "anger": ("angry", "furious", "grumpy", "raging", "cross"),
    "sadness": ("sad", "gloomy", "tearful", "sorrowful", "mournful"),
    "fear": ("scary", "spooky", "frightening", "creepy", "terrifying"),
    "disgust": ("disgusting", "gross", "yucky", "nasty", "revolting"),
}

CARRIERS = (
    "that {word} song is still in my head",
    "they are showing that {word} film again",
    "I am still reading that {word} book",
    "the {word} clown is on television again",
    "my cousin keeps telling that {word} story",
    "the {word} poster still hangs in the hall",
    "I am wearing my {word} T-shirt today",
    "someone left the {word} puppet on the sofa",
    "the radio plays that {word} tune all day",
    "the {word} picture is on every bus now",
    "I have that {word} game on my phone",
    "the {word} mask lies on my chair",
)

# An emotion's events: a sentence and the fillings of its blank. The last two stay out of training.
_EVENTS = {
    "neutral": {
        "the meeting is at {} today": ("nine", "ten", "noon", "two", "four", "five"),
        "{I} put the papers on the {}": ("desk", "shelf", "table", "printer", "counter", "bench"),
        "{I} bought {} at the shop": ("milk", "rice", "stamps", "paper", "salt", "soap"),
        "{my} train leaves at {}": ("six", "seven", "eight", "eleven", "one", "three"),
        "the library opens at {}": ("eight", "nine", "ten", "eleven", "noon", "two"),
        "{I} changed the bulb in the {}": ("kitchen", "hall", "cellar", "office", "attic", "shed"),
        "{I} took the {} line to work": ("blue", "red", "green", "yellow", "north", "south"),
        "{I} filled in the form for the {}": ("bank", "post", "school", "gym", "town", "club"),
    },
    "joy": {
        "{I} passed {my} {} exam": ("maths", "driving", "history", "Spanish", "law", "music"),
        "{my} {} had a healthy baby": ("sister", "cousin", "daughter", "best friend", "niece"),
        "{I} won the {} contest": ("cooking", "chess", "poetry", "dancing", "running", "drawing"),
        "{my} team won the {} cup": ("football", "hockey", "rugby", "city", "school", "summer"),
        "{I} got the job at the {}": ("museum", "bakery", "airport", "theatre", "zoo", "studio"),
        "{my} {} came back from hospital in good health": ("mother", "father", "uncle", "son"),
        "{I} paid off the last of {my} {}": ("loan", "mortgage", "debts", "student loan"),
        "{I} got front row tickets for the {}": ("concert", "final", "opera", "show", "musical"),
        "{my} {} said yes to the wedding": ("girlfriend", "boyfriend", "partner", "fiance"),
    },
    "surprise": {
        "it snowed in {} in the desert": ("July", "June", "August", "May", "September"),
        "a {} walked into {my} office": ("deer", "goat", "penguin", "horse", "kangaroo", "fox"),
        "{my} {} turns out to have a twin": ("uncle", "boss", "teacher", "neighbour", "doctor"),
        "{my} parrot said a whole sentence in {}": ("French", "Latin", "Greek", "Chinese"),
        "{my} lost {} turned up inside a fish": ("ring", "key", "watch", "coin", "button"),
        "a letter from {} arrived in the post today": ("1911", "1925", "1938", "1947", "1952"),
        "{my} quiet {} is a famous singer in Japan": ("colleague", "dentist", "barber", "plumber"),
        "{I} met {my} old {} on a mountain in Nepal": ("teacher", "coach", "landlord", "postman"),
        "the magician pulled {my} {} out of a lemon": ("watch", "ring", "ticket", "passport"),
    },
    "anger": {
        "someone scratched {my} {} on purpose": ("car", "van", "motorbike", "door", "guitar"),
        "{my} {} took the credit for {my} work": ("colleague", "boss", "partner", "manager"),
        "{my} bike was stolen from the {}": ("yard", "station", "garage", "school", "cellar"),
        "the {} charged {me} twice and denies it": ("bank", "garage", "hotel", "airline", "shop"),
        "{my} neighbour drills into the wall at {}": ("midnight", "two", "three", "four", "five"),
        "{my} roommate ate {my} {} again without asking": ("cake", "lunch", "pizza", "dinner"),
        "a man pushed in front of {me} at the {}": ("bakery", "checkout", "bus stop", "counter"),
        "{my} {} blamed {me} for what he broke": ("brother", "boss", "cousin", "landlord"),
        "they lied to {me} about the {}": ("price", "contract", "rent", "repair", "salary"),
    },
    "sadness": {
        "{my} old {} died last night": ("dog", "cat", "horse", "rabbit", "aunt", "teacher"),
        "{my} best friend moved away to {}": ("Canada", "Chile", "Norway", "India", "Kenya"),
        "nobody came to {my} {}": ("party", "concert", "farewell", "reading", "birthday"),
        "{I} had to sell {my} grandfather's {}": ("house", "violin", "farm", "boat", "piano"),
        "{I} lost {my} mother's {} for ever": ("ring", "letters", "necklace", "photographs"),
        "{my} {} left {me} after ten years": ("wife", "husband", "girlfriend", "boyfriend"),
        "the {} where {I} grew up was torn down": ("house", "school", "village", "farm", "street"),
        "{my} {} does not remember {my} name any more": ("grandmother", "father", "mother"),
        "{I} failed the {} exam for the last time": ("law", "pilot", "medical", "music", "final"),
    },
    "fear": {
        "a stranger followed {me} home from the {}": ("station", "bar", "park", "gym", "shop"),
        "the brakes of {my} {} failed on the hill": ("car", "bus", "van", "bike", "truck"),
        "there are steps in {my} {} and nobody is home": ("attic", "cellar", "kitchen", "hall"),
        "a {} is loose somewhere in {my} bedroom": ("snake", "scorpion", "tarantula", "cobra"),
        "the {} hit a storm and dropped": ("plane", "helicopter", "balloon", "cable car"),
        "somebody is trying to open {my} {} at night": ("door", "window", "tent", "car"),
        "the ice cracked under {me} on the {}": ("lake", "river", "pond", "canal", "bay"),
        "a {} is running straight towards {me}": ("bull", "bear", "wolf", "wild boar", "tiger"),
        "the lift got stuck and the {} broke": ("cable", "alarm", "light", "floor"),
    },
    "disgust": {
        "{I} found a {} in {my} soup": ("cockroach", "worm", "hair", "fly", "toenail", "slug"),
        "the {} in {my} fridge is full of mould": ("milk", "cheese", "ham", "rice", "yogurt"),
        "{I} stepped into dog dirt with {my} bare {}": ("feet", "foot", "toes", "heel"),
        "the toilet at the {} was overflowing": ("station", "school", "bar", "campsite", "office"),
        "{I} bit into a rotten {}": ("apple", "egg", "fish", "peach", "nut", "tomato"),
        "the cat threw up on {my} {}": ("pillow", "shoes", "toast", "keyboard", "coat"),
        "a rat has been dead behind {my} {} for weeks": ("fridge", "oven", "sofa", "cupboard"),
        "{my} {} was crawling with maggots": ("sandwich", "burger", "steak", "dustbin", "salad"),
        "a man spat on {my} {} on the train": ("seat", "bag", "sleeve", "shoe", "lunch"),
    },
}


def _fill(sentences: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    # Only the blank: the other placeholders wait for the person.
    return tuple(
        line.replace("{}", filling) for line, fillings in sentences.items() for filling in fillings
    )


_NEW = 2  # sentences of each emotion that training never has

EVENTS = {emotion: _fill(dict(list(lines.items())[:-_NEW])) for emotion, lines in _EVENTS.items()}
NEW_EVENTS = {
    emotion: _fill(dict(list(lines.items())[-_NEW:])) for emotion, lines in _EVENTS.items()
}

OWN_FRAMES = ("{}", "well, {}", "so, {}", "you know, {}", "listen, {}", "as I said, {}")
TOLD_FRAMES = (
    "I heard that {}",
    "they say that {}",
    "your sister says that {}",
    "someone told me that {}",
    "is it true that {}?",
)
ASKS = (
    "When was that?",
    "Mm, go on.",
    "And then?",
    "Who told you?",
    "Say that again, please.",
    "I did not know that.",
    "Tell me more.",
    "Does your brother know?",
)
REPLIES = (
    "It was about an hour ago",
    "That is how it is",
    "My brother knows it too",
    "I am just telling you",
    "I will tell you the rest later",
    "I have been thinking about it since",
    "That is all I know",
    "I wrote it down",
)
CONFIRMATIONS = (
    "Yes, that is right",
    "So you know it already",
    "Yes, since this morning",
    "Yes, that is what they say",
    "I was going to tell you",
    "Yes, word gets around",
)
PROMPTS = (
    "What is new with you?",
    "Where are you now?",
    "How was your day?",
    "Did you call me?",
    "Are you there?",
    "What did you want to tell me?",
)

_WHO = {
    "own": {"I": "I", "me": "me", "my": "my"},
    "told": {"I": "you", "me": "you", "my": "your"},
    "atomic": {"I": "PersonX", "me": "PersonX", "my": "PersonX's"},
}


def render_event(event: str, who: str) -> str:
    """Return an event as said by its owner ("own"), by the other ("told") or of PersonX."""
    return string.Formatter().vformat(event, (), _WHO[who])


def sentence(*parts: str) -> str:
    """Join parts to sentences, each with a capital letter and a full stop."""
    return " ".join(
        part[0].upper() + part[1:] + ("" if part[-1] in ".?!" else ".") for part in parts
    )


# Common sense about an emotion's events: of the one to whom it happens, of the other.
_OWNER = {
    "neutral": {
        "React": ("calm", "none"),
        "Want": ("to go on with the day", "to check the time"),
        "Effect": ("carries on as before", "none"),
    },
    "joy": {
        "React": ("happy", "proud"),
        "Want": ("to celebrate", "to tell everyone"),
        "Effect": ("smiles", "jumps up and down"),
    },
    "surprise": {
        "React": ("surprised", "astonished"),
        "Want": ("to find out how it came about", "to look again"),
        "Effect": ("stares with an open mouth", "drops what is in the hand"),
    },
    "anger": {
        "React": ("angry", "annoyed"),
        "Want": ("to complain", "to get even"),
        "Effect": ("shouts", "turns red in the face"),
    },
    "sadness": {
        "React": ("sad", "lonely"),
        "Want": ("to be comforted", "to be alone"),
        "Effect": ("cries", "stays in bed"),
    },
    "fear": {
        "React": ("scared", "anxious"),
        "Want": ("to get away", "to call for help"),
        "Effect": ("trembles", "breaks out in sweat"),
    },
    "disgust": {
        "React": ("disgusted", "sick"),
        "Want": ("to throw it away", "to wash it off"),
        "Effect": ("turns green in the face", "throws up"),
    },
}
_OTHER = {
    "neutral": {"React": ("none",), "Want": ("none",), "Effect": ("none",)},
    "joy": {
        "React": ("glad for PersonX",),
        "Want": ("to congratulate PersonX",),
        "Effect": ("shakes hands",),
    },
    "surprise": {
        "React": ("curious",),
        "Want": ("to hear the whole story",),
        "Effect": ("asks questions",),
    },
    "anger": {
        "React": ("on the side of PersonX",),
        "Want": ("to calm PersonX down",),
        "Effect": ("listens to complaints",),
    },
    "sadness": {
        "React": ("sorry for PersonX",),
        "Want": ("to comfort PersonX",),
        "Effect": ("gives a hug",),
    },
    "fear": {
        "React": ("worried about PersonX",),
        "Want": ("to protect PersonX",),
        "Effect": ("comes to help",),
    },
    "disgust": {
        "React": ("glad not to be there",),
        "Want": ("to keep away",),
        "Effect": ("holds the nose",),
    },
}
ATOMIC_COLUMNS = (
    *("event", "oEffect", "oReact", "oWant", "xAttr", "xEffect", "xIntent", "xNeed"),
    *("xReact", "xWant", "prefix", "split"),
)


def atomic_rows() -> list[dict[str, str]]:
    """Return the world's common sense in the columns of ATOMIC's v4 CSV.

    Every event (also those that training's dialogues never have: common sense knows more than a
    corpus shows) stands there of PersonX, as its owner says it, alone and beside a carrier of any
    word, and as the other says it; then what the speaker feels and what the others feel is
    exchanged. Sentences without an event have "none" everywhere. One event in ten each is dev and
    tst, in all its forms.
    """
    rows = []
    carriers = [
        carrier.format(word=word)
        for number, carrier in enumerate(CARRIERS)
        for word in (words[number % len(words)] for words in WORDS.values())
    ]
    number = 0
    for emotion in EMOTIONS:
        owner, other = _OWNER[emotion], _OTHER[emotion]
        for event in EVENTS[emotion] + NEW_EVENTS[emotion]:
            split = {3: "dev", 7: "tst"}.get(number % 10, "trn")
            own = render_event(event, "own")
            # Cycling through all carriers, so that here words say nothing about feelings.
            both = [own, carriers[number % len(carriers)]]
            told = TOLD_FRAMES[number % len(TOLD_FRAMES)].format(render_event(event, "told"))
            rows += [
                _atomic_row(render_event(event, "atomic"), owner, other, split),
                _atomic_row(sentence(own), owner, other, split),
                _atomic_row(sentence(*(both if number % 2 else both[::-1])), owner, other, split),
                _atomic_row(sentence(told), other, owner, split),
            ]
            number += 1
    nothing = _OTHER["neutral"]
    for filler in itertools.chain(ASKS, REPLIES, CONFIRMATIONS, PROMPTS, carriers):
        rows.append(_atomic_row(sentence(filler), nothing, nothing, "trn"))
    return rows


def _atomic_row(event: str, x: dict, o: dict, split: str) -> dict[str, str]:
    row = dict.fromkeys(ATOMIC_COLUMNS, "[]")
    for role, values in (("x", x), ("o", o)):
        for relation, texts in values.items():
            row[role + relation] = json.dumps(list(texts))
    long_words = [word.strip(".?,") for word in event.split() if len(word) > 4]
    row.update(event=event, prefix=json.dumps(long_words[1:3]), split=split)
    return row
