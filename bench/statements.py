"""Synthetic Olympiad-like statements with known identity, and rewordings of them, for the benches of the data stages.

A template has parameters (numbers and words that change the problem), variables, and alternatives `[[one|other]]` that
don't change it. A statement is a template with its parameters; its rewordings choose other alternatives, variables,
notation and surroundings. Statements that differ in a parameter are different problems, and the hardest negatives.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

PROVE = "[[Prove that|Show that|Prove|Demonstrate that|Establish that|Verify that|Your task is to show that]]"
FIND = "[[Find|Determine|Compute|What is|Calculate|Work out]]"
FIND_ALL = "[[Find all|Determine all|Find every possible choice of|Describe all|What are all the]]"
LET = "[[Let|Suppose|Consider|Assume that we are given|Take|We are given]]"
SUCH = "[[such that|satisfying|with|for which|with the property that]]"
POSINT = "[[positive integers|natural numbers|positive whole numbers]]"
POSINT1 = "[[positive integer|natural number|positive whole number]]"
POSREAL = "[[positive real numbers|positive reals|reals that are positive]]"
REAL = "[[real numbers|reals]]"
LE = "[[\\le|\\leq|\\leqslant|≤]]"
GE = "[[\\ge|\\geq|\\geqslant|≥]]"
FRAC = "[[\\frac|\\dfrac|\\tfrac]]"
DOTS = "[[\\ldots|\\dots|\\cdots]]"

TEMPLATES: list[str] = [
    f"{LET} $@a,@b,@c$ [[be|to be]] {POSREAL} {SUCH} $@a+@b+@c=#p$. {PROVE} "
    f"${FRAC}{{@a^#k}}{{@b+#q}}+{FRAC}{{@b^#k}}{{@c+#q}}+{FRAC}{{@c^#k}}{{@a+#q}} {GE} #r$.",
    f"{FIND_ALL} {POSINT} $@n$ {SUCH} $@n^#k+#p$ [[is divisible by|is a multiple of]] $#q@n+#r$.",
    f"{FIND_ALL} functions $@f:\\mathbb{{R}}\\to\\mathbb{{R}}$ {SUCH} $@f(#p@x+@f(@y))=#q@f(@x)+#r@y$ "
    f"[[for all real numbers|for all reals|for any real]] $@x,@y$.",
    f"{PROVE} [[for every|for each|for any]] {POSINT1} $@n$ the number $#p^{{@n}}+#q@n^#k-#r$ is #parity.",
    f"{LET} $@a_1,@a_2,{DOTS},@a_{{#p}}$ be {REAL} {SUCH} $@a_1+@a_2+{DOTS}+@a_{{#p}}=#q$. {FIND} the "
    f"#extreme value of $@a_1^#k+@a_2^#k+{DOTS}+@a_{{#p}}^#k$.",
    f"In [[a triangle|triangle]] $@A@B@C$, the #line from $@A$ [[meets|intersects]] the side $@B@C$ at $@D$. "
    f"[[It is known that|Given that|Suppose that]] $@A@B=#p$, $@A@C=#q$ and $@B@C=#r$. {FIND} the length of $@A@D$.",
    f"{LET} $@p$ be a prime [[number|]] greater than $#p$. {PROVE} $@p^#k+#q$ is divisible by "
    f"$#r$ if and only if $@p$ leaves remainder $#s$ [[when divided|on division]] by $#t$.",
    "A #thing grid of size $#p\\times#q$ is [[filled with|covered by]] #colour and white #tiles. "
    f"{FIND} the #extreme number of #colour #tiles {SUCH} every $#k\\times#m$ rectangle contains "
    "[[at least|no fewer than]] $#r$ of them.",
    f"{LET} $@P(@x)$ be a polynomial with #coefficients coefficients [[and degree|of degree]] $#k$ {SUCH} "
    f"$@P(#p)=#q$ and $@P(#r)=#s$. {FIND} all possible values of $@P(#t)$.",
    f"{PROVE} there [[exist|are]] infinitely many {POSINT} $@n$ {SUCH} $#p@n^2+#q$ is a perfect #power and "
    "[[$@n+#r$ is prime|the number $@n+#r$ is prime]].",
    f"#p #people sit around a #shape table. Each of them [[knows|is acquainted with]] [[exactly|precisely]] #q "
    f"others. {PROVE} one can [[choose|select|pick]] #m of them who #relation.",
    f"{LET} $@A@B@C@D$ be a #quadrilateral quadrilateral with $\\angle @A=#p^\\circ$ and $@A@B=#q$. The diagonals "
    f"[[meet|intersect]] at $@E$ and $@C@E=#r$. {FIND} the #measure of triangle $@C@D@E$.",
    f"The sequence $(@a_@n)$ is defined by $@a_1=#p$ and $@a_{{@n+1}}=#q@a_@n^#k-#r$ for "
    f"[[all|every]] $@n{GE}1$. {PROVE} $#s$ [[divides|is a divisor of]] $@a_{{#t}}$.",
    f"{FIND_ALL} pairs $(@x,@y)$ of #numbers {SUCH} $@x^#k-#p@y^2=#q$ and $@x+@y {LE} #r$.",
    f"{LET} $@n {GE} #p$ be an integer. {PROVE} among any $@n+#q$ #items one can [[choose|find|select]] "
    f"#k whose #aggregate is divisible by $#r$.",
    f"{FIND} the number of #words of length $#p$ over an alphabet of $#q$ letters that contain [[exactly|precisely]] "
    "$#k$ #patterns and [[begin|start]] with the letter #letter.",
    f"{LET} $@x,@y,@z$ be {POSREAL} [[with product|whose product is]] $#p$. {PROVE} "
    f"$(@x^#k+#q)(@y^#k+#q)(@z^#k+#q) {GE} #r(@x+@y+@z)^#m$.",
    f"Two circles $@\\omega_1$ and $@\\omega_2$ of radii $#p$ and $#q$ are #tangency tangent at $@T$. A common tangent "
    f"[[touches|is tangent to]] them at $@A$ and $@B$. The line $@A@T$ meets $@\\omega_2$ again at $@C$. "
    f"{FIND} $#r\\cdot @B@C$.",
    f"#person writes the numbers $#p,#q,{DOTS},#r$ on a blackboard. [[In each move|In every step|Each minute]] "
    "#person [[erases|wipes out]] #k of them and writes down their #aggregate #change by $#s$. "
    f"{PROVE} the last number [[does not depend|doesn't depend]] on the order of the moves.",
    f"{LET} $@d$ be the [[greatest common divisor|highest common factor]] of $#p^@n+#q$ and $#r^@n+#s$, where "
    f"$@n$ is #article integer. {FIND} the #extreme [[possible|]] value of $@d$.",
    f"A #animal starts at the origin and [[jumps|hops]] $#p$ or $#q$ units #direction at a time. It may not land on "
    f"multiples of $#r$. {FIND_ALL} points that it can [[reach|get to]] in [[at most|no more than]] $#s$ jumps.",
    f"{FIND} the #extreme constant $@C$ {SUCH} $@a^#k+@b^#k+#p@a@b {GE} @C(@a+@b)^#k+#q$ "
    f"[[for all|for any]] {POSREAL} $@a,@b$ with $@a@b=#r$.",
    f"In [[an acute|an acute-angled]] triangle $@A@B@C$ with #centre $@H$, the point $@M$ is the midpoint of #segment. "
    f"[[Let|Suppose]] $\\angle @B@A@C=#p^\\circ$. {PROVE} $#q@H@M=#r@B@C$ [[holds|]] exactly when $@A@B=#s@A@C$.",
    f"{LET} $@S$ be a set of $#p$ #items [[none of which exceeds|all of them at most]] $#q$. {PROVE} $@S$ has two "
    "[[disjoint|non-overlapping]] #subsets subsets with #k elements each and [[equal|the same]] #aggregate.",
]  # fmt: skip

PARAMETERS: dict[str, range | list[str]] = {
    "p": range(2, 400),
    "q": range(2, 300),
    "r": range(2, 200),
    "s": range(3, 150),
    "t": range(3, 100),
    "k": range(3, 9),
    "m": range(2, 7),
    "parity": ["odd", "even", "composite", "divisible by 7", "not a square"],
    "extreme": ["largest", "smallest"],
    "line": ["angle bisector", "median", "altitude", "symmedian"],
    "thing": ["wooden", "square", "rectangular", "toroidal"],
    "colour": ["black", "red", "blue", "golden"],
    "tiles": ["tiles", "dominoes", "counters", "beads"],
    "coefficients": ["integer", "rational", "real", "non-negative integer"],
    "power": ["square", "cube", "fourth power"],
    "people": ["people", "mathematicians", "children", "students"],
    "shape": ["round", "square", "long"],
    "relation": ["all know each other", "are pairwise strangers", "sit next to each other"],
    "quadrilateral": ["cyclic", "tangential", "convex", "bicentric"],
    "measure": ["area", "perimeter", "circumradius", "inradius"],
    "numbers": ["integers", "positive integers", "rational numbers", "primes"],
    "items": ["integers", "positive integers", "prime numbers", "odd integers"],
    "aggregate": ["sum", "product", "difference"],
    "words": ["words", "palindromes", "cyclic words"],
    "patterns": ["vowels", "double letters", "repeated blocks"],
    "letter": ["A", "B", "Q"],
    "tangency": ["internally", "externally"],
    "person": ["Anna", "Boris", "Clara", "Dmitri", "Elif"],
    "change": ["increased", "decreased"],
    "article": ["an odd", "an even", "a positive", "an arbitrary"],
    "animal": ["frog", "grasshopper", "flea", "kangaroo"],
    "direction": ["to the left", "to the right", "in any direction"],
    "centre": ["orthocentre", "circumcentre", "incentre"],
    "segment": ["$@B@C$", "$@A@B$", "$@A@H$"],
    "subsets": ["non-empty", "proper"],
}
_PLACEHOLDER = re.compile(r"#([a-z]+)")
_CHOICE = re.compile(r"\[\[([^\[\]]*)\]\]")
_WORD = re.compile(r"(?<!#)\b[a-z]{4,}\b(?!\|)")
_TELLING = {
    "positive",
    "natural",
    "whole",
    "integer",
    "integers",
    "real",
    "reals",
    "prime",
    "perfect",
    "square",
    "there",
}
_STRANGERS = ["object", "aforementioned", "quantity", "chosen", "admissible", "entire", "thereby"]
_VARIABLE = re.compile(r"@(\\omega|[A-Za-z])")
_BEFORE = [
    "",
    "",
    "Problem 4. ",
    "3) ",
    "**Question 2.** ",
    "(Romania 2007) ",
    "Hello everyone! ",
    "I am stuck on this one. ",
]
_AFTER = ["", "", " (Balkan MO 2011)", " Justify your answer.", " [7 points]", " Any hints?", " Thanks in advance!",
          " Proposed by A. Nonymous", " Please help, it is from my homework."]  # fmt: skip


@dataclass(frozen=True)
class Statement:
    """A problem: a template and the values of its parameters, which are its identity."""

    template: int
    values: tuple[tuple[str, str], ...]

    def text(self) -> str:
        """The statement as first published: the first of all alternatives."""
        template = _CHOICE.sub(lambda found: found.group(1).split("|")[0], TEMPLATES[self.template])
        return _tidy(_VARIABLE.sub(r"\1", self._filled(template)))

    def reworded(self, rng: random.Random, edits: int = 2) -> str:
        """Another wording: alternatives, names of variables, notation and surroundings are drawn anew.

        Up to `edits` further words, not of the parameters, are lost, misspelt or replaced, and sentences may change
        places, as nobody's tables can foresee.
        """
        template = _CHOICE.sub(lambda found: rng.choice(found.group(1).split("|")), TEMPLATES[self.template])
        for _ in range(rng.randint(0, edits)):
            template = _edited(template, rng)
        text = self._filled(template)
        text = _rename(text, rng)
        if rng.random() < 0.3:
            text = text.replace("$", "\\)").replace("\\)", "\\(", 1) if text.count("$") == 2 else text
        if rng.random() < 0.3:
            text = re.sub(r"\^\{(\w)\}", r"^\1", text)
        if rng.random() < 0.3:
            text = re.sub(r"([=+])", r" \1 ", text)
        return _tidy(rng.choice(_BEFORE) + text + rng.choice(_AFTER))

    def _filled(self, template: str) -> str:
        values = dict(self.values)
        return _PLACEHOLDER.sub(lambda found: values[found.group(1)], template)


def _edited(template: str, rng: random.Random) -> str:
    """One edit: a word lost, misspelt, or replaced by one that means nothing to anybody; or two sentences swapped."""
    sentences = template.split(". ")
    if len(sentences) > 2 and rng.random() < 0.25:
        sentences[0], sentences[1] = sentences[1], sentences[0]
        return ". ".join(sentences)
    pieces = template.split("$")
    words = [
        (index, found)
        for index in range(0, len(pieces), 2)
        for found in _WORD.finditer(pieces[index])
        if found.group() not in _TELLING
    ]
    if not words:
        return template
    index, found = rng.choice(words)
    word = found.group()
    swapped = word[:2] + word[3] + word[2] + word[4:]
    other = rng.choice(["", swapped, word + "e", "respective " + word, rng.choice(_STRANGERS)])
    pieces[index] = pieces[index][: found.start()] + other + pieces[index][found.end() :]
    return "$".join(pieces)


SCENERY = {"thing", "colour", "tiles", "people", "shape", "person", "animal", "letter", "items", "words", "patterns"}
"""Parameters that dress a problem: nobody can say whether another value makes another problem."""


def twin(statement: Statement, rng: random.Random) -> Statement | None:
    """The statement with one word changed that makes it another problem (median, altitude); None if it has no such."""
    choices = [
        (position, name)
        for position, (name, _) in enumerate(statement.values)
        if isinstance(PARAMETERS[name], list) and name not in SCENERY
    ]
    if not choices:
        return None
    position, name = rng.choice(choices)
    values = list(statement.values)
    values[position] = (name, rng.choice([value for value in PARAMETERS[name] if value != values[position][1]]))
    return Statement(statement.template, tuple(values))


def _tidy(text: str) -> str:
    return re.sub(r" +", " ", text).replace(" .", ".").replace(" ,", ",").strip()


def _rename(text: str, rng: random.Random) -> str:
    """New letters for all variables, of the same case, as a person would choose them."""
    old = sorted(set(_VARIABLE.findall(text)))
    lower = [name for name in old if name.islower() and len(name) == 1]
    upper = [name for name in old if name.isupper()]
    new = dict(zip(lower, rng.sample("abcdghkmnpqrstuvwxyz", len(lower)), strict=True))
    new |= dict(zip(upper, rng.sample("ABCDEFGHKLMNPQRSTUVWXYZ", len(upper)), strict=True))
    new |= {"\\omega": rng.choice(["\\omega", "\\Gamma", "\\gamma", "k"])}
    return _VARIABLE.sub(lambda found: new[found.group(1)], text)


def statements(count: int, seed: int) -> list[Statement]:
    """`count` different problems, drawn evenly over the templates."""
    rng = random.Random(seed)
    names = [sorted(set(_PLACEHOLDER.findall(text))) for text in TEMPLATES]
    found: dict[tuple[int, tuple[str, ...]], Statement] = {}
    while len(found) < count:
        template = rng.randrange(len(TEMPLATES))
        values = tuple((name, str(rng.choice(PARAMETERS[name]))) for name in names[template])
        found.setdefault(
            (template, tuple(value for name, value in values if name not in SCENERY)), Statement(template, values)
        )
    return list(found.values())
