"""Thinking apart from what is stated, in the text of models that mark it with <think> and </think>."""

from __future__ import annotations

START, END = "<think>", "</think>"


def split_thinking(text: str, opened: bool = False) -> tuple[str, str]:
    """(thinking, answer). `opened`: the prompt ended inside a block of thinking, so the text begins in one.

    The answer is all behind the last </think>; it is empty while thinking goes on.
    """
    if END in text:
        thought, _, answer = text.rpartition(END)
    elif opened or START in text:
        thought, answer = text, ""
    else:
        thought, answer = "", text
    return thought.strip().removeprefix(START).strip(), answer.strip()


def written_proof(text: str, reasoning: bool) -> str:
    """What an answer states as its proof: all behind the last </think>; nothing while reasoning goes on."""
    return split_thinking(text, reasoning)[1]
