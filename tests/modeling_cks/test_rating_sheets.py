# SPDX-License-Identifier: Apache-2.0
"""Blind sheets, and sheets that came back changed, incomplete or from elsewhere."""

import csv
import io
import itertools
import json
from collections import Counter

import pytest
from small_world import rows

from modeling_cks.evaluation.human import CRITERIA
from modeling_cks.evaluation.rating_sheets import (
    COLUMNS,
    Answers,
    csv_sheet,
    make_study,
    read_key,
    read_ratings,
    sheet_rows,
)

STICKERS = [f"{n:03}" for n in range(6)]


def answers(title, shift, emotions=None, marked=None, count=12):
    """A model whose first stickers are the six, turned by `shift`."""
    turned = tuple((STICKERS * 2)[shift : shift + 5])
    return Answers(
        title, f"runs/{title}", [turned] * count, emotions and [emotions] * count,
        marked and [marked] * count,
    )  # fmt: skip


def study(**changes):
    models = [
        answers("CKS", 0, ("anger", "joy"), [0, 1]),
        answers("CLIP", 1),
        answers("MMBERT", 2, ("anger", "sadness"), [1]),
        answers("MOD-GPT", 1, ("anger", "joy")),
    ]
    return make_study(rows(), models, **{"raters": 3, "seed": 0, "data": "f", **changes})


def filled(made, number, rate=lambda row: "1"):
    """A rater's sheet as rows of cells, rated by `rate`."""
    table = list(csv.DictReader(io.StringIO(csv_sheet(made, made["sheets"][number])[1:])))
    for row in table:
        row["rating"] = rate(row)
    return table


def write(path, table, columns=COLUMNS, delimiter=",", encoding="utf-8-sig"):
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(table)
    return path


def test_every_question_is_asked_once_of_every_rater():
    made = study()
    for sheet in made["sheets"]:
        asked = [(r["item"], r["answer"], r["criterion"]) for r in sheet_rows(made, sheet)]
        assert len(set(asked)) == len(asked)
        # Two lists are alike, and so are two sets of emotions: 3 lists, 2 sets.
        assert Counter(name for _, _, name in asked) == {
            "Ps@3": 36, "Ps@5": 36, "Rel-d": 36, "Rel-c": 36, "Pe@3": 24,
        }  # fmt: skip
        for _, of_item in itertools.groupby(asked, lambda place: place[0]):
            kinds = [name == "Pe@3" for _, _, name in of_item]
            assert kinds == sorted(kinds)  # emotions last


def test_answers_alike_are_asked_once_for_all_their_models():
    for item in study()["items"]:
        models = {tuple(one["shown"]): one["models"] for one in item["answers"].values()}
        assert models[tuple(STICKERS[1:6])] == ["CLIP", "MOD-GPT"]
        assert models["anger", "joy"] == ["CKS", "MOD-GPT"]
        assert models["anger", "sadness"] == ["MMBERT"]


def test_nothing_on_a_sheet_names_a_model():
    made = study()
    for sheet in made["sheets"]:
        text = csv_sheet(made, sheet)
        assert not any(word in text for word in ("CKS", "CLIP", "MMBERT", "MOD", "GPT", "runs"))


def test_places_and_codes_tell_nothing_of_the_model():
    models = [answers(f"model {n}", n, count=100) for n in range(4)]
    many = [{**row, "dialogue_id": str(n)} for n, row in enumerate(rows(100))]
    made = make_study(many, models, raters=5, seed=3, data="f")
    places, first_letters = Counter(), Counter()
    for sheet in made["sheets"]:
        for number, codes in sheet["order"]:
            for place, code in enumerate(codes):
                (model,) = made["items"][number - 1]["answers"][code]["models"]
                places[model, place] += 1
                first_letters[model, code[0] < "M"] += 1
    # 500 times each of 4 places: 125, with a standard deviation of 10.
    assert len(places) == 16 and all(85 < times < 165 for times in places.values())
    # 9 of the 20 letters come before M: 225 of 500, each code counted for five raters.
    assert all(125 < first_letters[f"model {n}", True] < 325 for n in range(4))
    orders = [[number for number, _ in sheet["order"]] for sheet in made["sheets"]]
    assert all(sorted(order) == list(range(1, 101)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_the_seed_makes_the_same_sheets_and_the_data_other_ones():
    prints = [
        [sheet["fingerprint"] for sheet in study(**changes)["sheets"]]
        for changes in ({}, {}, {"seed": 1}, {"data": "g"})
    ]
    assert prints[0] == prints[1]
    assert len({*prints[0], *prints[2], *prints[3]}) == 9


def test_the_marked_utterances_are_the_first_weighing_models_for_all():
    made = study()
    assert made["marked_by"] == "CKS"
    cells = list(sheet_rows(made, made["sheets"][0]))
    asked = {cell["question"] for cell in cells if cell["criterion"] == "Rel-c"}
    assert asked == {"How well do the first three fit utterances 1 and 2?"}
    unmarked = make_study(rows(), [answers("CLIP", 1)], raters=1, seed=0, data="f")
    assert unmarked["marked_by"] is None
    assert "Rel-c" not in {r["criterion"] for r in sheet_rows(unmarked, unmarked["sheets"][0])}


def test_models_of_one_name_are_told_apart_by_their_folders():
    twins = [answers("CKS", 0), Answers("CKS", "other", answers("", 1).stickers, None, None)]
    made = make_study(rows(), twins, raters=1, seed=0, data="f")
    assert [model["name"] for model in made["models"]] == ["CKS (runs/CKS)", "CKS (other)"]


def test_a_cell_shows_the_dialogue_and_the_first_three_apart():
    made = study()
    for sheet in made["sheets"]:
        cells = list(sheet_rows(made, sheet))
        with_dialogue = [cell for cell in cells if cell["dialogue"]]
        assert [cell["item"] for cell in with_dialogue] == [str(n) for n, _ in sheet["order"]]
        cell = next(cell for cell in with_dialogue if cell["item"] == "1")
        said = rows()[0]["utterances"]
        lines = cell["dialogue"].splitlines()
        assert lines[0].startswith(f"1 A: {said[0]['text']}") and len(lines) == len(said) + 1
        assert lines[-1] == f"{'AB'[said[-1]['speaker']]} sends a sticker now."
        shown = {cell["shown"] for cell in cells}
        assert "first 000.png, 001.png, 002.png, then 003.png, 004.png" in shown
        assert "anger, joy" in shown


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_ratings_come_back_as_they_were_given(tmp_path, delimiter):
    made = study()

    def rate(row):
        return str((int(row["item"]) + len(row["shown"])) % 2 if row["criterion"][0] == "R" else 1)

    table = filled(made, 1, rate)
    # As a spreadsheet may leave it: sorted, with another line end inside a cell, and a new column.
    table.sort(key=lambda row: (row["criterion"], row["answer"]))
    for row in table:
        row["dialogue"] = row["dialogue"].replace("\n", "\r\n")
        row["note"] = "hm"
    path = write(tmp_path / "r.csv", table, (*COLUMNS, "note"), delimiter)
    found = read_ratings(path, made)
    assert {one.rater for one in found} == {2}
    wanted = {(r["item"], r["answer"], r["criterion"]): int(r["rating"]) for r in table}
    assert {(str(o.sample), o.answer, o.criterion): o.value for o in found} == wanted
    for one in found:
        assert list(one.models) == made["items"][one.sample - 1]["answers"][one.answer]["models"]
    assert {one.criterion for one in found} == set(CRITERIA)


def test_a_key_is_read_back_and_a_changed_one_refused(tmp_path):
    made = study()
    path = tmp_path / "key.json"
    path.write_text(json.dumps(made))
    assert read_key(path) == made
    made["items"][0]["utterances"][0]["text"] += "!"
    path.write_text(json.dumps(made))
    with pytest.raises(ValueError, match=r"key\.json: was changed, .* rater 1"):
        read_key(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"key\.json: not the key of a human evaluation"):
        read_key(path)
    with pytest.raises(ValueError, match=r"none\.json: no such file"):
        read_key(tmp_path / "none.json")


def change(column, value, criterion="Ps@3"):
    def of(table):
        next(row for row in table if row["criterion"] == criterion)[column] = value

    return of


def take(table):
    del table[5:7]


def repeat(table):
    table.append(dict(table[5]))


def unanswer(table):
    for row in table[5:8]:
        row["rating"] = " "


def contradict(table):
    place = next(row for row in table if row["criterion"] == "Ps@5")
    place["rating"] = "0"


WHERE = r"item \d+, answer [A-Z]{2}, "


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (take, WHERE + r"\S+ is gone \(and 1 more\)"),
        (repeat, WHERE + r"\S+ is there twice"),
        (change("item", "99"), r"item 99, answer [A-Z]{2}, Ps@3 was not asked on this sheet"),
        (change("answer", "AA"), r"item \d+, answer AA, Ps@3 was not asked on this sheet"),
        (change("criterion", "Pe@3"), WHERE + "Pe@3 was not asked on this sheet"),
        (change("shown", "first 000.png"), WHERE + "Ps@3: the text of 'shown' was changed"),
        (change("question", "Is it nice?"), WHERE + "Ps@3: the text of 'question' was changed"),
        (change("scale", "0 yes, 1 no"), WHERE + "Ps@3: the text of 'scale' was changed"),
        (change("dialogue", "1 A: no"), WHERE + "Ps@3: the text of 'dialogue' was changed"),
        (change("rating", "2"), WHERE + "Ps@3: the rating '2' is none of 0, 1"),
        (change("rating", "3", "Rel-d"), WHERE + "Rel-d: the rating '3' is none of 0, 1, 2"),
        (change("rating", "yes"), WHERE + "Ps@3: the rating 'yes' is none of 0, 1"),
        (change("rating", "1.5", "Rel-c"), WHERE + "Rel-c: the rating '1.5' is none of"),
        (unanswer, WHERE + r"\S+: the rating is missing \(and 2 more\)"),
        (contradict, WHERE + "Ps@5: the rating is 0, but an apt sticker among the first three"),
        (change("sheet", "sheet-0"), "sheet 'sheet-0' is none of this study's"),
    ],
)
def test_a_changed_or_incomplete_sheet_is_refused_by_name(tmp_path, tamper, says):
    made = study()
    table = filled(made, 0)
    tamper(table)
    with pytest.raises(ValueError, match=r"r\.csv: " + says):
        read_ratings(write(tmp_path / "r.csv", table), made)


def test_sheets_of_others_are_refused(tmp_path):
    made, other = study(), study(seed=1)
    path = write(tmp_path / "r.csv", filled(other, 0))
    assert len(read_ratings(path, other)) == 168
    with pytest.raises(ValueError, match=r"r\.csv: sheet 'sheet-\w+' is none of this study's"):
        read_ratings(path, made)
    both = filled(made, 0) + filled(made, 1)
    with pytest.raises(ValueError, match="holds rows of several sheets"):
        read_ratings(write(tmp_path / "both.csv", both), made)


def test_files_that_are_no_sheets_are_named(tmp_path):
    made = study()
    table = filled(made, 0)
    with pytest.raises(ValueError, match=r"none\.csv: no such file"):
        read_ratings(tmp_path / "none.csv", made)
    with pytest.raises(ValueError, match=r"r\.csv: has no column 'rating'"):
        read_ratings(write(tmp_path / "r.csv", table, COLUMNS[:-1]), made)
    with pytest.raises(ValueError, match=r"r\.csv: holds no rows"):
        read_ratings(write(tmp_path / "r.csv", []), made)
    table[0]["dialogue"] += "é"
    with pytest.raises(ValueError, match=r"r\.csv: is not UTF-8"):
        read_ratings(write(tmp_path / "r.csv", table, encoding="latin-1"), made)
    path = write(tmp_path / "r.csv", filled(made, 0))
    path.write_text(path.read_text() + 'sheet-1,2,"AB')
    with pytest.raises(ValueError, match=r"r\.csv: line \d+: not CSV"):
        read_ratings(path, made)
    path = write(tmp_path / "r.csv", filled(made, 0))
    path.write_text(path.read_text() + "sheet-1,2,AB\n")
    with pytest.raises(ValueError, match=r"r\.csv: line \d+: too many or too few cells"):
        read_ratings(path, made)
