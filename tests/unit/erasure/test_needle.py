"""What counts as naming somebody, and what is left of a text without them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergreen.erasure.needle import BLOT, Needle

NAMES = ("customer_id", "customer", "Customer")
WORD = Needle("c11-06", NAMES, ("ann@x.example",))
NUMBER = Needle(17850, NAMES)
LETTER = Needle("a", NAMES)


@pytest.mark.parametrize(
    ("needle", "text"),
    [
        (WORD, "order of c11-06, row 3"),
        (WORD, "c11-06/17"),
        (WORD, "to ann@x.example."),
        (WORD, '{"raw": "torn,c11-06,x"}'),
        (WORD, '{"deep": [{"c11-06": 1}]}'),
        (NUMBER, "customer_id=17850 is missing"),
        (NUMBER, "Customer='17850'"),
        (NUMBER, "<tr><td class='x'>17850</td></tr>"),
        (NUMBER, '{"customer_id": 17850}'),
        (NUMBER, json.dumps({"partial_unexpected_list": [3, 17850]}, indent=1)),
        (NUMBER, json.dumps({"partial_unexpected_index_list": [{"n": 17850}]}, indent=1)),
        (LETTER, "for example customer_id=a"),
    ],
)
def test_texts_that_name_somebody_are_found_and_blotted(needle: Needle, text: str) -> None:
    assert needle.is_in_text(text)
    blotted = needle.blot_text(text)
    assert BLOT in blotted and not needle.is_in_text(blotted)
    if text.startswith("{"):
        json.loads(blotted)
    assert needle.blot_text(blotted) == blotted


@pytest.mark.parametrize(
    ("needle", "text"),
    [
        (WORD, "c11-061 and xc11-06 and c11-06-2"),
        (NUMBER, "17850 rows, of them 17,850"),
        (NUMBER, '{"element_count": 17850, "unexpected_count": 17850, "rows": [17850]}'),
        (NUMBER, "customer_id=178501"),
        (LETTER, "<a href='a'>a</a> a b c"),
    ],
)
def test_other_texts_stay_as_they_are(needle: Needle, text: str) -> None:
    assert not needle.is_in_text(text)
    assert needle.blot_text(text) == text


@pytest.mark.parametrize(
    ("needle", "value", "name", "found"),
    [
        (WORD, "c11-06", "anything", True),
        (WORD, "ann@x.example", "email", True),
        # Somebody else's address, with the key in it.
        (Needle("anna", NAMES), "anna@x.example", "email", False),
        (WORD, "the order of c11-06", "comment", True),
        (WORD, ["x", "c11-06"], "examples", True),
        (NUMBER, "17850", "order_id", False),
        (NUMBER, "17850", "customer_id", True),
        (NUMBER, ["17850"], "examples", True),
        (NUMBER, 17850, "amount", False),
        (NUMBER, '{"Customer": "17850", "id": "3"}', "raw", True),
        (NUMBER, '{"Customer": "3", "id": "17850"}', "raw", False),
        (NUMBER, None, "customer_id", False),
    ],
)
def test_values_of_columns_are_compared_as_a_whole(
    needle: Needle, value: object, name: str, found: bool
) -> None:
    assert needle.is_in(value, name) is found
    blotted = needle.blot(value, name)
    assert (blotted == value) is (not found)
    assert not needle.is_in(blotted, name)


def test_spellings_of_files_are_known() -> None:
    odd = Needle('O\'Brien & "Söhne"', NAMES)
    for text in (
        json.dumps({"x": 'O\'Brien & "Söhne"'}),
        "<td>O&#x27;Brien &amp; &quot;Söhne&quot;</td>",
        "GET /x?c=O%27Brien%20%26%20%22S%C3%B6hne%22",
    ):
        assert odd.is_in_text(text)
        assert not odd.is_in_text(odd.blot_text(text))
    assert odd.is_in_bytes('…O\'Brien & "Söhne"…'.encode())


@given(st.text(min_size=1), st.sampled_from([WORD, NUMBER, LETTER]))
def test_a_blotted_text_never_names_anybody(text: str, needle: Needle) -> None:
    for around in (text, f"{text} customer_id={needle.text} {text}", f"{text} {needle.text}"):
        assert not needle.is_in_text(needle.blot_text(around))
