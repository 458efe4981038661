"""The steps that scaffolds are made of: one question each, with its prompt and how the answer is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qednano.evals.calls import Status
from qednano.evals.tree import JUDGE, SOLVER, SUMMARISER, VERIFIER, BranchFailed, Node, Reply
from qednano.grading.interface import FULL_SCORE
from qednano.grading.parse import NoVerdict, delimited, instructions, parse_object, parse_verdict
from qednano.llm import prompts


@dataclass(frozen=True)
class Review:
    """What a verifier said of a proof. `score` is 0..7."""

    score: int
    text: str
    path: str


@dataclass
class Candidate:
    """A proof and what was said of it."""

    proof: Reply
    reviews: list[Review] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean score as a share (0 to 1); without a review it is below all that have one."""
        if not self.reviews:
            return -1.0
        return sum(review.score for review in self.reviews) / (FULL_SCORE * len(self.reviews))

    def harshest(self, count: int) -> list[Review]:
        """The reviews with the lowest scores, equal ones in the order of asking."""
        return sorted(self.reviews, key=lambda review: review.score)[:count]


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The highest mean; of equal ones the later, which has seen more work. Cut-off proofs come last."""
    return max(enumerate(candidates), key=lambda item: (not item[1].proof.cut_off, item[1].mean, item[0]))[1]


def _user(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


async def solve(node: Node, name: str = "solve", approach: str = "", inputs: Sequence[str] = ()) -> Reply:
    """A new proof; with the bare problem as the question, as in training, unless an approach is given."""
    prompt = prompts.render("scaffolds/solve", problem=node.problem.problem, approach=approach)
    return await node.ask(SOLVER, "solve", _user(prompt), name=name, inputs=inputs)


async def go_on(node: Node, summary: Reply, name: str) -> Reply:
    """A new proof from the summary of earlier work."""
    prompt = prompts.render("scaffolds/continue", problem=node.problem.problem, summary=summary.text)
    return await node.ask(SOLVER, "solve", _user(prompt), name=name, inputs=[summary.path])


async def summarise(node: Node, work: Reply, before: Reply | None, name: str) -> Reply:
    """What of the work is worth knowing; thinking is part of the work."""
    text = "\n\n".join(part for part in (work.reasoning, work.text) if part)
    prompt = prompts.render(
        "scaffolds/summarise",
        problem=node.problem.problem,
        summary=before.text if before else "",
        work=delimited(text, node.nonce(name)),
    )
    inputs = [work.path, *([before.path] if before else [])]
    return await node.ask(SUMMARISER, "summarise", _user(prompt), name=name, inputs=inputs)


async def verify(node: Node, proof: Reply, name: str, prompt: str = "verify") -> Review:
    """One verifier's score; what is no verdict is asked for once more, then BranchFailed."""
    nonce = node.nonce(name)
    question = prompts.render(
        f"scaffolds/{prompt}",
        problem=node.problem.problem,
        instructions=instructions(nonce),
        proof=delimited(proof.text, nonce),
    )
    refusal = ""
    for attempt in ("", "-again"):
        reply = await node.ask(VERIFIER, "verify", _user(question), name=name + attempt, inputs=[proof.path])
        try:
            verdict = parse_verdict(reply.text, nonce)
        except NoVerdict as error:
            refusal = str(error)
            continue
        faults = "\n".join(f"- {error}" for error in verdict.errors)
        said = "\n".join(part for part in (verdict.assessment, faults) if part)
        return Review(verdict.score, said, reply.path)
    raise BranchFailed(f"{reply.path}: {refusal}", Status.ANSWERED)


async def refine(node: Node, candidate: Candidate, reviews: Sequence[Review], name: str) -> Reply:
    """A proof in place of one that was reviewed."""
    nonce = node.nonce(name)
    prompt = prompts.render(
        "scaffolds/refine",
        problem=node.problem.problem,
        proof=delimited(candidate.proof.text, nonce),
        reviews=[delimited(review.text, nonce) for review in reviews],
    )
    inputs = [candidate.proof.path, *(review.path for review in reviews)]
    return await node.ask(SOLVER, "refine", _user(prompt), name=name, inputs=inputs)


async def improve(node: Node, proof: Reply, name: str) -> Reply:
    """A proof in place of one that nobody has reviewed."""
    text = delimited(proof.text, node.nonce(name))
    prompt = prompts.render("scaffolds/improve", problem=node.problem.problem, proof=text)
    return await node.ask(SOLVER, "improve", _user(prompt), name=name, inputs=[proof.path])


async def merge(node: Node, proofs: Sequence[Reply], name: str) -> Reply:
    """One proof out of several."""
    nonce = node.nonce(name)
    texts = [delimited(proof.text, nonce) for proof in proofs]
    prompt = prompts.render("scaffolds/merge", problem=node.problem.problem, proofs=texts)
    return await node.ask(SOLVER, "merge", _user(prompt), name=name, inputs=[proof.path for proof in proofs])


async def choose(node: Node, first: Reply, second: Reply, name: str) -> Reply:
    """The better of two. Which is shown first is drawn; without a readable judgement one is drawn too, and noted."""
    rng, nonce = node.random(name), node.nonce(name)
    pair = [first, second]
    rng.shuffle(pair)
    prompt = prompts.render(
        "scaffolds/choose",
        problem=node.problem.problem,
        nonce=nonce,
        first=delimited(pair[0].text, nonce),
        second=delimited(pair[1].text, nonce),
    )
    try:
        reply = await node.ask(JUDGE, "choose", _user(prompt), name=name, inputs=[item.path for item in pair])
        better = _stated(reply.text, nonce).get("better")
        if better in (1, 2) and not isinstance(better, bool):
            return pair[better - 1]
        why = "the judgement names neither proof"
    except (BranchFailed, NoVerdict) as error:
        why = str(error)
    node.note(f"{node.path or 'top'}: one of two proofs was drawn by lot, since {why}")
    return rng.choice(pair)


async def tournament(node: Node, proofs: Sequence[Reply]) -> Reply:
    """The winner of a knock-out: pairs at once, the odd one out goes on by itself. Raises ValueError for no proofs."""
    if not proofs:
        raise ValueError("a tournament needs at least one proof")
    entrants, number = list(proofs), 0
    while len(entrants) > 1:
        stage = node.child(f"knock-out-{number}")
        pairs = list(zip(entrants[::2], entrants[1::2], strict=False))
        winners = await stage.all(
            [choose(stage, first, second, f"pair-{place}") for place, (first, second) in enumerate(pairs)], "pairs"
        )
        entrants = [*winners, *entrants[2 * len(pairs) :]]
        number += 1
    return entrants[0]


async def agreeing(node: Node, proofs: Sequence[Reply], name: str) -> list[Reply]:
    """Those that arrive at what a judge believes is true; all of them when it can't be read."""
    nonce = node.nonce(name)
    prompt = prompts.render(
        "scaffolds/consolidate",
        problem=node.problem.problem,
        nonce=nonce,
        proofs=[delimited(proof.text, nonce) for proof in proofs],
    )
    try:
        reply = await node.ask(JUDGE, "consolidate", _user(prompt), name=name, inputs=[item.path for item in proofs])
        numbers = _stated(reply.text, nonce).get("agree")
        if isinstance(numbers, list):
            kept = [proof for place, proof in enumerate(proofs, start=1) if place in numbers]
            if kept:
                return kept
        why = "the judgement names no proof"
    except (BranchFailed, NoVerdict) as error:
        why = str(error)
    node.note(f"{node.path or 'top'}: all proofs were kept, since {why}")
    return list(proofs)


async def approaches(node: Node, count: int, name: str = "approaches") -> tuple[list[str], str]:
    """Ideas to try, at most `count`, and the path of the call. Raises BranchFailed when there is none."""
    prompt = prompts.render("scaffolds/approaches", problem=node.problem.problem, count=count)
    reply = await node.ask(SOLVER, "approaches", _user(prompt), name=name)
    try:
        stated = parse_object(reply.text).get("approaches")
    except NoVerdict as error:
        raise BranchFailed(f"{reply.path}: {error}", Status.ANSWERED) from None
    found = [item.strip() for item in stated if isinstance(item, str)] if isinstance(stated, list) else []
    if not any(found):
        raise BranchFailed(f"{reply.path}: the answer names no approach", Status.ANSWERED)
    return [item for item in found if item][:count], reply.path


def _stated(text: str, nonce: str) -> Any:
    stated = parse_object(text)
    if stated.get("nonce") != nonce:
        raise NoVerdict("the answer doesn't repeat the nonce of its request")
    return stated


async def reviewed(node: Node, proof: Reply, votes: int, prompt: str = "verify") -> Candidate:
    """The proof with `votes` reviews asked for at once; those that failed are noted. An empty proof is not sent."""
    candidate = Candidate(proof)
    if proof.text.strip():
        asked = [verify(node, proof, f"verify-{number}", prompt) for number in range(votes)]
        candidate.reviews = await node.all(asked, "verifications", needed=0)
    return candidate
