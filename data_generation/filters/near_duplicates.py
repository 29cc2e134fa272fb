"""Near-duplicates of text: MinHash signatures in an LSH index (datasketch), then the exact share of common word pairs.

Where words are not parted by blanks, characters take their place (see `languages.shingles`).

The index is what grows while rows stream by: some 5 kB a kept row.
"""

from zlib import crc32

import numpy as np

from ...rows.extras import require
from ..answers.samples import Sample, quoted
from ..languages import count_words, has_spaced_words, sentences, shingles, tokens

SIMILARITY = 0.7
NUM_PERMUTATIONS = 64
# Shorter ones agree by chance ("Two." and "It is red.")
FEWEST_PAIRS = 8
FEWEST_REPEATED_WORDS = 4


class NearDuplicates:
    """Names the earlier sample that a sample repeats, or the sentence that it repeats itself.

    Only samples that are kept may be compared with, so this filter comes last.

    Args:
        similarity: Jaccard index of the word pairs from which two samples count as the same, in (0, 1].

    Raises:
        ValueError: `similarity` is outside its range, or datasketch is missing.
    """

    def __init__(self, similarity: float = SIMILARITY) -> None:
        if not 0 < similarity <= 1:
            raise ValueError(f"similarity={similarity} must be above 0 and at most 1.")
        self.similarity = similarity
        self.datasketch = require("datasketch")
        # A missed pair is lost, a false candidate is dismissed by the exact comparison: hence the weights
        threshold = min(similarity, 0.95)
        self.index = self.datasketch.MinHashLSH(threshold, NUM_PERMUTATIONS, weights=(0.1, 0.9))
        # By number: ids may come again, as in LLaVA's own mixtures, and each sample is one of its own
        self.kept: list[tuple[str, np.ndarray]] = []

    def __call__(self, sample: Sample) -> str | None:
        return _repeats_itself(sample) or self._repeats_another(sample)

    def _repeats_another(self, sample: Sample) -> str | None:
        text = " ".join(sample.own_texts)
        pairs = word_pairs(text)
        if len(pairs) < FEWEST_PAIRS or (not has_spaced_words(text) and count_words(text) < FEWEST_PAIRS):
            return None
        signature = self.datasketch.MinHash(NUM_PERMUTATIONS)
        signature.update_batch([pair.tobytes() for pair in pairs])
        for number in sorted(self.index.query(signature)):
            other, others_pairs = self.kept[number]
            if _jaccard(pairs, others_pairs) >= self.similarity:
                return f"says nearly the same as {other!r}"
        self.index.insert(len(self.kept), signature)
        self.kept.append((sample.id, pairs))
        return None


def word_pairs(text: str) -> np.ndarray:
    """Sorted hashes of the different pairs of neighboring words; case and punctuation do not count."""
    return np.unique(np.array([crc32(pair.encode("utf-8", "replace")) for pair in shingles(text)], dtype=np.uint32))


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _repeats_itself(sample: Sample) -> str | None:
    """A question asked twice, or a sentence said twice in the answers."""
    questions = [tokens(question) for question, _ in sample.exchanges]
    for at, question in enumerate(questions):
        if question in questions[:at]:
            return f"asks twice: {quoted(sample.exchanges[at][0])}"
    said: set[tuple[str, ...]] = set()
    for answer in sample.answers:
        for sentence in sentences(answer):
            words = tuple(tokens(sentence))
            if words in said and count_words(sentence) >= FEWEST_REPEATED_WORDS:
                return f"says twice: {quoted(sentence)}"
            said.add(words)
    return None
