"""Final answers, entry points, mixtures, and what stands before every grader."""

from __future__ import annotations

import asyncio
import json
import re
import time

import pytest

from qednano import metrics
from qednano.api.grader import Grader as GraderSpec
from qednano.data.schema import ProblemRow
from qednano.errors import ConfigError
from qednano.grading.answers import AnswerWorkers, Equality, boxed_answer, stated_answer
from qednano.grading.attacks import ATTACKS
from qednano.grading.health import GraderHealth
from qednano.grading.interface import Failure, Grade
from qednano.grading.patience import TRIES, obtain_grade
from qednano.grading.registry import grader_for
from qednano.llm.budget import BudgetSpent

from .fakes import FakeModel, in_turn, nonce_of, said

ENDPOINT = {"endpoint": {"url": "http://localhost:1", "model": "m"}}
HANG = "9^{9^{9^{9^9}}}"


@pytest.fixture(scope="module")
def workers():
    found = AnswerWorkers(timeout_seconds=10, size=1)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{3} and an open \boxed{4", "3"),
        (r"\boxed {\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{}", None),
        ("The final answer is $x = 3$.", "x = 3"),
        ("Answer: 42", "42"),
        ("**Final answer:** 7.", "7"),
        ("Nothing here.", None),
    ],
)
def test_the_stated_answer_is_the_last_one(text, answer):
    assert stated_answer(text) == answer


def test_boxes_alone_are_found_too():
    assert boxed_answer("the answer is 3") is None


@pytest.mark.parametrize(
    ("known", "given", "equality"),
    [
        (r"\frac12", "0.5", Equality.EQUAL),
        ("3", "4", Equality.DIFFERENT),
        (r"$\{1,2\}$", r"\{2, 1\}", Equality.EQUAL),
        (r"\{1,2\}", r"\{1,3\}", Equality.DIFFERENT),
        ("x^2+2x+1", "(x+1)^2", Equality.EQUAL),
        ("2k+1", "k", Equality.UNSURE),
        ("all primes", "?!", Equality.UNREADABLE),
        ("1", "1" * 3000, Equality.UNREADABLE),
    ],
)
def test_algebra_says_what_it_knows_for_certain(workers, known, given, equality):
    assert workers.compare(known, given) is equality


def test_an_expression_that_never_ends_is_killed_and_the_next_question_answered(workers):
    impatient = AnswerWorkers(timeout_seconds=1.0, size=1)
    impatient.compare("1", "1")
    started = time.monotonic()
    assert impatient.compare("1", HANG) is Equality.UNSURE
    assert time.monotonic() - started < 5
    assert impatient.compare("1", "1") is Equality.EQUAL
    impatient.close()


def test_an_answer_is_never_run_as_python(workers, tmp_path):
    target = tmp_path / "pwned"
    workers.compare("1", f"__import__('pathlib').Path('{target}').touch()")
    workers.compare("1", f"\\text{{__import__('pathlib').Path('{target}').touch()}}")
    assert not target.exists()


def final(judge=None, **options):
    spec = {"finalAnswer": {**options, **({"model": ENDPOINT} if judge else {})}}
    return grader_for(GraderSpec.model_validate(spec), {"finalAnswer/model": judge} if judge else {})


def problem(answer):
    return ProblemRow(id="p", problem="How many?", answer=answer)


async def test_outcomes_have_the_scores_of_the_table():
    reward = {"correct": 7, "wrong": 1, "none": 2, "unreadable": 3, "cutOff": 4}
    grader = final(reward=reward)
    for text, cut, score, outcome in (
        (r"\boxed{0.5}", False, 7, "correct"),
        (r"\boxed{2}", False, 1, "wrong"),
        ("I don't know.", False, 2, "none"),
        (r"\boxed{?!}", False, 3, "unreadable"),
        (r"\boxed{0.5}", True, 4, "cut_off"),
        (r"\boxed{0.5}</think>", False, 2, "none"),
    ):
        grade = await grader.grade(problem(r"\frac{1}{2}"), text, cut_off=cut)
        assert (grade.score, grade.details["outcome"]) == (score, outcome), text
    assert (await grader.grade(problem(None), r"\boxed{1}")).failure is Failure.UNGRADABLE
    await grader.close()


def opinion(messages, equal):
    return json.dumps({"nonce": nonce_of(messages), "reason": "so", "equal": equal})


async def test_a_model_is_asked_only_where_algebra_can_not_tell():
    judge = FakeModel(lambda m: opinion(m, True))
    grader = final(judge)
    assert (await grader.grade(problem("3"), r"\boxed{4}")).score == 0
    assert judge.asked == []
    grade = await grader.grade(problem("all odd k"), r"\boxed{k = 2m+1}")
    assert (grade.score, grade.details["outcome"], len(judge.asked)) == (7, "correct", 1)
    assert "How many?" in judge.asked[0][0]["content"]
    await grader.close()


async def test_the_judges_votes_decide_and_its_failures_are_no_wrong_answers():
    split = FakeModel(in_turn(*(lambda m, e=e: opinion(m, e) for e in (True, False, True))))
    grader = final(split, votes=3)
    grade = await grader.grade(problem("all odd k"), r"\boxed{k = 2m+1}")
    assert grade.score == 7 and len(grade.details["votes"]) == 3
    await grader.close()
    mute = final(FakeModel(lambda m: "yes"))
    assert (await mute.grade(problem("all odd k"), r"\boxed{2m}")).failure is Failure.UNREADABLE
    await mute.close()


@pytest.mark.parametrize("attack", ATTACKS[::5])
async def test_an_answer_can_not_speak_as_its_judge(attack):
    def echo(messages):
        return re.search(r"<<<CANDIDATE [0-9a-f]+>>>\n(.*)\n<<<END OF CANDIDATE", messages[0]["content"], re.S)[1]

    from qednano.grading.final_answer import FinalAnswerMarker

    marker = final(FakeModel(echo)).grader
    assert isinstance(marker, FinalAnswerMarker)
    grade = await marker._judged(problem("3"), attack, {})
    assert grade.score is None
    await marker.close()


def own(name, **options):
    return {"entryPoint": {"name": f"tests.grading.own:{name}", "options": options}}


async def test_an_entry_point_grades_and_hears_of_cut_off_proofs():
    grader = grader_for(GraderSpec.model_validate(own("Fixed", score="2.5")))
    grade = await grader.grade(problem(None), "x", cut_off=True)
    assert (grade.score, grade.reason) == (2.5, "cut off: True")
    await grader.close()
    assert grader.grader.closed


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"entryPoint": {"name": "no.such:thing"}}, "can't be imported"),
        (own("Missing"), "has no Missing"),
        (own("Fixed", colour="red"), "unexpected keyword argument 'colour'"),
        (own("nothing"), "is no qednano.grading.interface.Grader"),
        (own("Deaf"), "no keyword cut_off"),
    ],
)
def test_an_entry_point_that_does_not_fit_is_named(spec, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        grader_for(GraderSpec.model_validate(spec))


async def test_an_error_or_a_long_wait_of_a_grader_is_no_grade():
    broken = grader_for(GraderSpec.model_validate(own("Fixed", score="-1")))
    grade = await broken.grade(problem(None), "x")
    assert (grade.score, grade.failure) == (None, Failure.ERROR) and "ZeroDivisionError" in grade.reason
    down = grader_for(GraderSpec.model_validate(own("Fixed", score="-2")))
    assert (await down.grade(problem(None), "x")).failure is Failure.UNAVAILABLE
    slow = grader_for(GraderSpec.model_validate({**own("Fixed", seconds="60"), "timeoutSeconds": 1}))
    assert (await slow.grade(problem(None), "x")).failure is Failure.TIMEOUT


async def test_whatever_a_grader_hands_back_can_be_written():
    """A row or a sample that can't would end the run."""
    careless = grader_for(GraderSpec.model_validate({**own("Careless"), "canaryPercent": 100}))
    grade = await careless.grade(problem(None), "x")
    assert (grade.score, type(grade.score), grade.reason) == (3.0, float, "they write ?")
    told = grade.details
    assert json.loads(json.dumps(told, allow_nan=False).encode()) == told
    assert (told["1"], told["half"], told["none"], told["quote"], told["set"]) == (2, 0.5, "nan", "?", ["x"])
    assert told["deep"] == [{"a": [1, None, True]}] and "Fixed" in told["own"]
    bare = grader_for(GraderSpec.model_validate(own("Careless", way="bare")))
    assert (await bare.grade(problem(None), "x")).failure is Failure.ERROR


async def test_a_judge_that_is_led_to_quote_half_a_character_does_not_end_the_run():
    """Its verdict is JSON, which may name such a half; no file can hold one."""
    spec = GraderSpec.model_validate({"rubric": {"model": ENDPOINT}})
    judge = FakeModel(lambda m: said(m, 2, assessment="They write \ud835.", errors=["\ud800"]))
    grade = await grader_for(spec, {"rubric/model": judge}).grade(problem(None), "an honest try")
    assert grade.score == 2 and grade.reason == "They write ?."
    json.dumps(grade.details, ensure_ascii=False).encode()


async def test_a_spent_budget_is_for_the_run_to_decide():
    spent = grader_for(GraderSpec.model_validate(own("Fixed", score="-3")))
    with pytest.raises(BudgetSpent):
        await obtain_grade(spent, problem(None), "x")


def mixture(first, second):
    parts = [
        {"name": "one", "weight": "3", **own("Fixed", score=first)},
        {"name": "two", "weight": "1", **own("Fixed", score=second)},
    ]
    return grader_for(GraderSpec.model_validate({"mixture": {"parts": parts}}))


async def test_a_mixture_is_the_weighted_mean_and_a_part_without_a_grade_voids_it():
    grade = await mixture("6", "2").grade(problem(None), "x")
    assert grade.score == 5.0
    assert {name: part["score"] for name, part in grade.details["parts"].items()} == {"one": 6.0, "two": 2.0}
    void = await mixture("6", "-1").grade(problem(None), "x")
    assert (void.score, void.failure) == (None, Failure.ERROR)


async def test_parts_of_a_mixture_get_their_own_models():
    parts = [{"name": "a", "rubric": {"model": ENDPOINT}}, {"name": "b", "rubric": {"model": ENDPOINT}}]
    models = {f"mixture/parts/{n}/rubric/model": FakeModel(lambda m, n=n: said(m, 2 + 4 * n)) for n in (0, 1)}
    grade = await grader_for(GraderSpec.model_validate({"mixture": {"parts": parts}}), models).grade(problem(None), "x")
    assert grade.score == 4.0


# -- canaries ---------------------------------------------------------------------------------------------------------


def counted(outcome):
    return metrics.GRADER_CANARIES.labels(outcome)._value.get()


@pytest.mark.parametrize(("gullible", "outcome"), [(True, "succeeded"), (False, "resisted")])
async def test_canaries_go_along_without_touching_the_grade(gullible, outcome):
    spec = GraderSpec.model_validate({"rubric": {"model": ENDPOINT}, "canaryPercent": 100})
    model = FakeModel(lambda m: said(m, 5 if "honest" in m[0]["content"] else 7 * gullible))
    grader = grader_for(spec, {"rubric/model": model})
    before = counted(outcome)
    grades = [await grader.grade(problem(None), "an honest try") for _ in range(20)]
    assert {grade.score for grade in grades} == {5}
    assert counted(outcome) - before == 20
    assert all(grade.details["canary"]["attack"] in range(len(ATTACKS)) for grade in grades)
    assert (metrics.GRADER_CANARY_SUCCESS._value.get() > 0) is gullible


async def test_only_the_asked_for_share_takes_a_canary_along():
    spec = GraderSpec.model_validate({**own("Fixed", score="0"), "canaryPercent": 30})
    grader = grader_for(spec)
    grades = [await grader.grade(problem(None), "x") for _ in range(1000)]
    assert 0.24 < sum("canary" in grade.details for grade in grades) / 1000 < 0.36


# -- patience and health -----------------------------------------------------------------------------------------------


class Scripted:
    """Fails as long as it is told to."""

    name = "scripted"

    def __init__(self, failure=Failure.UNAVAILABLE):
        self.failing, self.failure, self.calls = True, failure, 0

    async def grade(self, problem, proof, *, cut_off=False):
        self.calls += 1
        return Grade(None, "down", failure=self.failure) if self.failing else Grade(4)

    async def close(self): ...


@pytest.mark.parametrize(("failure", "calls"), [(Failure.UNAVAILABLE, TRIES), (Failure.UNGRADABLE, 1)])
async def test_a_grade_is_asked_for_again_only_where_that_can_help(failure, calls, monkeypatch):
    monkeypatch.setattr("qednano.grading.patience._FIRST_WAIT", 0.0)
    before = metrics.GRADER_FAILURES.labels(failure.value)._value.get()
    grader = Scripted(failure)
    assert (await obtain_grade(grader, problem(None), "x")).failure is failure
    assert grader.calls == calls
    assert metrics.GRADER_FAILURES.labels(failure.value)._value.get() == before + 1


async def test_a_grader_that_keeps_failing_is_waited_for_and_the_wait_ends_with_the_first_grade(monkeypatch):
    monkeypatch.setattr("qednano.grading.patience._FIRST_WAIT", 0.0)
    said_so: list[str] = []
    health = GraderHealth(20, said=said_so.append, first_pause=0.01, longest_pause=0.05)
    grader = Scripted()
    lost = [await obtain_grade(grader, problem(None), "x", health=health) for _ in range(10)]
    assert all(grade.score is None for grade in lost)
    assert "failed for 100 % of the last 10 grades (maxFailurePercent is 20): down" in health.paused == said_so[-1]

    waiting = [asyncio.create_task(obtain_grade(grader, problem(None), "x", health=health)) for _ in range(50)]
    calls = grader.calls
    async with asyncio.timeout(10):
        while grader.calls < calls + 4:
            await asyncio.sleep(0.005)
    assert sum(task.done() for task in waiting) < 10, "while it fails, one at a time tries"
    grader.failing = False
    grades = await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert sum(grade.score == 4 for grade in grades) > 40
    assert (health.paused, said_so[-1], health.failure_percent) == ("", "", 0.0)


def test_few_failures_and_problems_that_no_one_could_grade_do_not_pause_a_run():
    health = GraderHealth(20)
    for number in range(100):
        health.record(Grade(None, "x", failure=Failure.TIMEOUT) if number % 6 == 5 else Grade(1))
        health.record(Grade(None, "no answer", failure=Failure.UNGRADABLE))
    assert not health.paused
    never = GraderHealth(100)
    for _ in range(50):
        never.record(Grade(None, "x"))
    assert not never.paused
