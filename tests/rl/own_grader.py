"""A grader as a user writes one: rewards what an untrained model can do by chance."""

from __future__ import annotations

from qednano.grading.interface import Grade


class FewDigits:
    """7 points for a proof without digits, none for one of nothing else."""

    name = "few-digits"

    async def grade(self, problem, proof, *, cut_off=False):
        return Grade(7 - 7 * sum(letter.isdigit() for letter in proof) / max(1, len(proof)))

    async def close(self): ...
