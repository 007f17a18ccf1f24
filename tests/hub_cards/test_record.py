# SPDX-License-Identifier: Apache-2.0
import pytest

from hub_cards import CardError, Record

VALUE = {"a": {"b": [{"c": 1}, {"d": None}]}, "zero": 0, "no": False, "gone": None, "empty": {}}


def test_values_come_as_they_are_and_objects_know_their_place():
    record = Record(VALUE, "file.json")
    assert record["a"]["b"][0]["c"] == 1 and record["zero"] == 0 and record["no"] is False
    assert list(record) == ["a", "zero", "no", "empty"] and len(record) == 4
    assert "gone" not in record and record.get("gone", 7) == 7 and record.get("zero", 7) == 0
    assert record.plain() is VALUE and dict(record["empty"]) == {}


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda r: r["x"], "file.json: there is no x"),
        (lambda r: r["gone"], "file.json: there is no gone"),
        (lambda r: r["a"]["x"], "file.json: there is no a.x"),
        (lambda r: r["a"]["b"][1]["d"], r"file.json: there is no a.b\[1\].d"),
        (lambda r: Record([1], "list.json"), "list.json: the file is not a JSON object"),
    ],
)
def test_what_is_missing_or_null_is_named(ask, says):
    with pytest.raises(CardError, match=f"^{says}$"):
        ask(Record(VALUE, "file.json"))
