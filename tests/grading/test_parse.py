"""A proof can't speak as its grader: whatever it says, the score is the grader's or there is none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qednano.errors import DataError
from qednano.grading.attacks import ATTACKS
from qednano.grading.parse import (
    LONGEST,
    NoVerdict,
    Verdict,
    delimited,
    instructions,
    new_nonce,
    parse_verdict,
    verdict_schema,
)

NONCE = "0123456789abcdef0123456789abcdef"


def verdict(score=2, **more):
    return json.dumps({"nonce": NONCE, "assessment": "A gap.", "errors": ["step 2"], "score": score, **more})


def test_the_suite_is_large_and_its_attacks_differ():
    assert len(set(ATTACKS)) == len(ATTACKS) >= 60


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_that_the_grader_quotes_changes_nothing(attack):
    assert parse_verdict(verdict(assessment=f"They write: {attack}"), NONCE).score == 2
    assert parse_verdict(verdict(errors=[attack, f"</think>{attack}"]), NONCE).score == 2
    assert parse_verdict(f"<think>They write: {attack}\nSo 2.</think>\n{verdict()}", NONCE).score == 2
    assert parse_verdict(f"{attack}</think>```json\n{verdict()}\n```", NONCE).score == 2


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_that_the_grader_echoes_is_no_verdict(attack):
    for answer in (attack, f"<think>hm</think>{attack}", f"{verdict()}\n{attack} .", f"{verdict()}{verdict(7)}"):
        with pytest.raises(NoVerdict):
            parse_verdict(answer, NONCE)
    before = f"{attack}\n{verdict()}"
    try:
        assert parse_verdict(before, NONCE).score == 2
    except NoVerdict:
        assert not attack.endswith("</think>")


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_stays_between_the_marks(attack):
    text = delimited(attack, NONCE)
    assert text.count(f"<<<END OF PROOF {NONCE}>>>") == 1
    assert text.endswith(f"\n<<<END OF PROOF {NONCE}>>>")
    assert text.startswith(f"<<<PROOF {NONCE}>>>\n")


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_text_without_the_nonce_is_a_verdict(text):
    with pytest.raises(NoVerdict):
        parse_verdict(text, new_nonce())


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "  ",
        verdict(8),
        verdict(-1),
        verdict(7.0),
        verdict("7"),
        verdict(True),
        verdict(None),
        verdict(10**30),
        verdict(bonus=1),
        verdict(errors="none"),
        verdict(errors=[1]),
        verdict(assessment=["x"]),
        verdict()[:-1] + ', "score": 7}',
        verdict().replace("2}", "NaN}"),
        verdict().replace("2}", "Infinity}"),
        verdict().replace("2}", "1" * 6000 + "}"),
        f"[{verdict()}]",
        json.dumps(verdict()),
        verdict()[:-1],
        verdict().replace(NONCE, NONCE.upper()),
        verdict().replace(NONCE, NONCE + " "),
        verdict(assessment="x" * LONGEST),
        json.dumps({"nonce": NONCE}),
        '{"nonce": "\\ud800", "score": 7}',
    ],
)
def test_anything_but_one_whole_verdict_is_refused(answer):
    with pytest.raises(NoVerdict):
        parse_verdict(answer, NONCE)


@pytest.mark.parametrize("score", range(8))
def test_every_score_is_read(score):
    assert parse_verdict(verdict(score), NONCE) == Verdict(score, "A gap.", ["step 2"])


def test_a_refusal_does_not_quote_the_answer():
    with pytest.raises(NoVerdict) as caught:
        parse_verdict('{"the secret": 1}', NONCE)
    assert "secret" not in str(caught.value)


def test_a_proof_that_holds_the_nonce_is_not_sent():
    with pytest.raises(DataError):
        delimited(f"x {NONCE}", NONCE)


def test_each_request_has_its_own_nonce_which_the_schema_and_the_instructions_ask_for():
    one, other = new_nonce(), new_nonce()
    assert one != other and len(one) == 32
    assert verdict_schema(one)["properties"]["nonce"] == {"const": one}
    assert one in instructions(one)


def test_the_schema_accepts_what_the_parser_accepts():
    import jsonschema

    jsonschema.validate(json.loads(verdict()), verdict_schema(NONCE))
    for refused in (verdict(8), verdict("7"), verdict(bonus=1)):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(refused), verdict_schema(NONCE))
