"""What the normal form of a statement knows of mathematical English and LaTeX: tables only."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau "
    "upsilon phi varphi chi psi omega Gamma Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell"
)
_NO_MEANING = (
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle text textbf textit mathrm mathbf mathbb Bbb "
    "mathcal mathit mathsf operatorname quad qquad cdot times ast overline limits begin end hspace vspace emph rm "
    "bf it item underline label ensuremath phantom hfill in noindent par newline boldsymbol mathfrak mbox hbox "
    "textrm"
)
_MACROS = {
    "<=": "leq le leqslant leqq",
    ">=": "geq ge geqslant geqq",
    "<": "lt",
    ">": "gt",
    "!=": "neq ne",
    "dots": "ldots cdots dots dotsc dotsb vdots",
    "->": "to rightarrow longrightarrow mapsto longmapsto",
    "|": "mid vert lvert rvert divides",
    "mod": "pmod bmod mod equiv",
    "infinity": "infty",
    "angle": "angle measuredangle",
    "triangle": "triangle",
    "degree": "circ degree",
    "set": "setminus",
    "subset": "subset subseteq",
    "perpendicular": "perp",
    "parallel": "parallel",
    "floor": "lfloor",
    "ceil": "lceil",
    "binom": "binom dbinom tbinom choose",
    "pi": "pi",
}
_CHARACTERS = {
    "≤": "<=", "⩽": "<=", "≥": ">=", "⩾": ">=", "≠": "!=", "…": "dots", "→": "->", "∈": "", "∣": "|", "|": "|",
    "≡": "mod", "∞": "infinity", "∠": "angle", "∡": "angle", "△": "triangle", "°": "degree", "⊥": "perpendicular",
    "∥": "parallel", "⌊": "floor", "⌈": "ceil", "π": "pi", "ℝ": "real", "ℕ": "posint", "ℤ": "integer",
    "ℚ": "rational", "ℂ": "complex", "∑": "sum", "∏": "prod", "√": "sqrt", "<=": "<=", ">=": ">=", "!=": "!=",
    "<": "<", ">": ">", "=": "=", "+": "+", "-": "-", "–": "-", "/": "/", "^": "^", "_": "_", "!": "!", "±": "±",
    "∪": "cup", "∩": "cap",
}  # fmt: skip
_PUNCTUATION = "{}()[],.;:?'\"`~&%#@*·×⋅∗\\\n"


def _symbols() -> dict[str, tuple[str, str]]:
    table = {"\\" + name: ("variable", name.removeprefix("var")) for name in _GREEK.split()}
    table |= {"\\" + name: ("symbol", "") for name in _NO_MEANING.split()}
    for text, names in _MACROS.items():
        table |= {"\\" + name: ("symbol", text) for name in names.split()}
    table |= {character: ("symbol", text) for character, text in _CHARACTERS.items()}
    table |= {character: ("symbol", "") for character in _PUNCTUATION}
    table |= {letter: ("variable", letter) for letter in "αβγδεζηθικλμνξρστυφχψωΓΘΛΞΣΦΨΩℓ"}
    table |= {"\\sqrt": ("symbol", "sqrt"), "\\|": ("symbol", "|"), "*": ("symbol", "")}
    table |= {"\\rfloor": ("symbol", ""), "\\rceil": ("symbol", ""), "⌋": ("symbol", ""), "⌉": ("symbol", "")}
    return table


SYMBOLS = _symbols()
"""A macro or character to its kind and its one notation; the empty text drops it."""

FUNCTIONS = _words(
    """
    sin cos tan cot sec csc log ln exp gcd lcm max min mod det deg sup inf arg sgn lim sum prod area dim rank
    """
)
NUMBER_WORDS = {
    **{"zero": "0", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8"},
    **{"nine": "9", "ten": "10", "eleven": "11", "twelve": "12"},
}
"""Without "one", which is mostly no number ("choose one")."""

SHORT_WORDS = _words("of to in is be we by on an at as if or it so no do go up us my me he am hi ok vs th st nd rd")
"""Words of two letters, which a text without delimiters may have beside products of two variables."""

DROPPED = _words(
    """
    a an the this that these those such so then thus hence also only just both either it its itself they their them
    he she we us you your i my me our one ones of to in on at by for from with without within into onto as is are
    be been being was were has have had having do does did doing can could may might must shall should will would
    and or but if whether when where while whenever which who whom whose what how why there here than let lets
    suppose assume assuming assumed assumption consider considering given give gives denote denotes denoted
    denoting define defined defines definition call called say said write written prove proved show shows shown
    showing demonstrate demonstrates verify check establish deduce conclude derive determine determines find
    finding compute calculate evaluate decide obtain justify explain answer answers solve solution proof proofs
    problem problems question following follows statement claim hold holds holding valid satisfy satisfies
    satisfying satisfied condition property all every each any some possible respectively arbitrary certain fixed
    exist exists existing always necessarily indeed namely i.e e.g ie eg etc please help hello hi everyone thanks
    thank advance hint hints anyone anybody someone know idea ideas stuck nice interesting hard easy homework class
    teacher today yesterday friend saw found got need wondering trying tried think rigorous rigorously detail
    details full exactly precisely choice task describe am work let's case make take taking taken use using used
    value values another other others below above about over under again via up out off now suitable particular
    whatever among relation simultaneously throughout corresponding belongs belonging belong element elements
    wherein therefore since because equality inequality equation
    """
)
"""Words of the frame: what a statement can lose and still be the same problem."""

WORDS = {
    "orthocenter": "orthocentre", "circumcenter": "circumcentre", "incenter": "incentre", "excenter": "excentre",
    "trapezium": "trapezoid", "average": "mean",
    "naturals": "posint", "reals": "real",
    "rationals": "rational", "integers": "integer", "primes": "prime", "divides": "|", "divide": "|",
    "factor": "divisor", "equals": "=", "equal": "=", "equalling": "=", "exceeds": ">",
    "exceed": ">", "exceeding": ">", "plus": "+", "vertices": "vertex", "indices": "index", "matrices": "matrix",
    "polynomials": "polynomial", "select": "choose", "pick": "choose", "start": "begin", "same": "=", "don't": "not",
    "doesn't": "not", "can't": "not", "isn't": "not", "aren't": "not", "largest": "max", "greatest": "max",
    "maximum": "max", "maximal": "max", "biggest": "max", "smallest": "min", "least": "min", "minimum": "min",
    "minimal": "min", "lowest": "min", "perpendicularly": "perpendicular", "orthogonal": "perpendicular",
    "nonnegative": "nonneg", "infinitely": "infinite", "pairwise": "distinct",
    "mutually": "distinct", "strictly": "", "meet": "intersect", "meets": "intersect", "intersects": "intersect",
    "cut": "intersect", "cuts": "intersect", "quantity": "expression",
    "degrees": "degree", "board": "grid", "chessboard": "grid", "coloured": "color",
    "colored": "color", "colour": "color", "colours": "color", "colors": "color", "painted": "color",
    "people": "person", "persons": "person", "points": "point", "angled": "", "lie": "lies", "dots": "dots",
    "modulo": "mod", "unequal": "distinct",
    "different": "distinct", "functions": "function", "map": "function", "mapping": "function", "tuples": "tuple",
    "triples": "triple", "pairs": "pair", "solutions": "solution",
}  # fmt: skip
"""A word to the one that stands for it."""

PHRASES = {
    "at least": ">=", "no fewer than": ">=", "no less than": ">=", "not less than": ">=",
    "greater than or equal to": ">=", "at most": "<=", "no more than": "<=", "not more than": "<=",
    "less than or equal to": "<=", "not exceeding": "<=", "none of which exceeds": "<=", "greater than": ">",
    "more than": ">", "larger than": ">", "less than": "<", "smaller than": "<", "fewer than": "<",
    "greatest common divisor": "gcd", "highest common factor": "gcd", "greatest common factor": "gcd",
    "least common multiple": "lcm", "lowest common multiple": "lcm", "if and only if": "iff", "exactly when": "iff",
    "precisely when": "iff", "is a multiple of": "divisible", "are multiples of": "divisible",
    "is divisible by": "divisible", "are divisible by": "divisible", "divisible by": "divisible",
    "is a divisor of": "|", "is a factor of": "|", "such as": "", "work out": "", "each other": "", "one another": "",
    "no two of": "distinct", "same as": "=", "mean value": "mean", "common tangent": "commontangent",
    "right angled": "right", "right-angled": "right", "acute-angled": "acute", "obtuse-angled": "obtuse",
    "numbers that are positive": "positive", "reals that are positive": "posreal", "does not": "not", "do not": "not",
    "cannot": "not", "can not": "not", "is not": "not", "are not": "not", "pass through": "through",
    "passing through": "through", "passes through": "through",
}  # fmt: skip
"""Runs of words (in lower case) to what they stand for."""

PAIRS = {
    ("real", "positive"): "posreal", ("integer", "positive"): "posint",
    ("nonneg", "integer"): "nonnegint", ("nonneg", "number"): "nonneg",
    ("positive", "integer"): "posint", ("natural", "number"): "posint", ("natural", "integer"): "posint",
    ("whole", "number"): "integer", ("positive", "whole"): "posint", ("posint", "number"): "posint",
    ("real", "number"): "real", ("rational", "number"): "rational", ("complex", "number"): "complex",
    ("prime", "number"): "prime", ("positive", "real"): "posreal", ("posreal", "number"): "posreal",
    ("non", "negative"): "nonneg", ("non", "zero"): "nonzero", ("integer", "number"): "integer", ("less", "="): "<=",
    ("greater", "="): ">=", ("<", "="): "<=", (">", "="): ">=",
}  # fmt: skip
"""Two neighbours to the one token that stands for both."""

CONTRASTS = [
    ("odd", "even"),
    ("max", "min"),
    ("acute", "obtuse"),
    ("increasing", "decreasing"),
    ("increased", "decreased"),
    ("finite", "infinite"),
    ("internally", "externally"),
    ("internal", "external"),
    ("inscribed", "circumscribed"),
    ("interior", "exterior"),
    ("injective", "surjective", "bijective"),
    ("even", "odd", "square", "cube", "fourth", "composite"),
    ("left", "right", "any"),
    ("sum", "product", "difference", "quotient", "mean"),
    ("median", "altitude", "bisector", "symmedian", "diameter"),
    ("area", "perimeter", "circumradius", "inradius", "length", "angle"),
    ("integer", "posint", "nonnegint", "real", "posreal", "rational", "irrational", "complex", "prime", "nonneg"),
    ("orthocentre", "circumcentre", "incentre", "centroid", "excentre"),
    ("cyclic", "tangential", "convex", "concave", "bicentric", "parallelogram", "trapezoid", "rhombus", "rectangle"),
    ("isosceles", "equilateral", "scalene"),
    ("first", "second", "last"),
]
"""Groups of words of which one can't stand for another: statements that differ in them are different problems."""
