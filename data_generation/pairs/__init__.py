"""Pairs of a true answer and one that names what is not in the picture; and which absent objects are named, by name.

    rows.jsonl          ── falsify ──>  the answer, and the same with an object that is not there   ──┐
    rows.rejected.jsonl ── mend ─────>  a hallucinating answer, and the same without what it invents ──┴──> pairs for trl

`NEGATIVES` are POPE's ways to choose what is not there (arXiv:2305.10355, section 5.1). POPE asks for the first few of its
ranking; here a ranking's counts are the odds of a draw, or one object, rejected in every pair, would be learnt by its name.
"""

from .object_counts import Odds

NEGATIVES: dict[str, Odds] = {
    "random": lambda counts, absent, present: 1.0,
    "popular": lambda counts, absent, present: counts.pictures[absent],
    "adversarial": lambda counts, absent, present: sum(counts.together[absent, one] for one in present),
}
