"""The concept filter: which phrases are found, which captions are kept, and how much memory it takes."""

import json
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from llavakit.cli import main
from llavakit.data_generation.mixing.concepts import Mentions, balance_captions, select_captions
from llavakit.data_generation.mixing.phrases import phrase_extractor, rule_phrases


def mentions_of(phrases_of_captions: list[list[int]]) -> Mentions:
    pairs = np.array([(caption, phrase) for caption, found in enumerate(phrases_of_captions) for phrase in found])
    _, first, counts = np.unique(pairs[:, 1], return_index=True, return_counts=True)
    return Mentions(pairs[:, 0], pairs[:, 1], counts, first, len(phrases_of_captions))


def write_captions(path: Path, captions: list[str]) -> Path:
    rows = [{"id": str(n), "image": f"{n}.jpg", "caption": text, "more": n} for n, text in enumerate(captions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# the choice


def test_rare_phrases_are_skipped_and_frequent_ones_sampled():
    # Phrase 0: everywhere. 1: in 5 captions. 2: in 3. 3: in 2, too few.
    captions = [[0, 1], [0, 1], [0, 1, 2], [1, 2, 0], [0, 1, 2], [0], [3], [0], [3], []]
    chosen = select_captions(mentions_of(captions), min_count=3, max_per_phrase=2, seed=0)
    assert not chosen[[6, 8, 9]].any(), "captions of skipped phrases alone, and of none"
    for phrase in (0, 1, 2):
        assert sum(phrase in captions[number] for number in np.flatnonzero(chosen)) >= 2
    assert chosen.sum() <= 6
    everything = select_captions(mentions_of(captions), min_count=1, max_per_phrase=100)
    assert everything.tolist() == [True] * 9 + [False]


def by_the_papers_words(captions: list[list[int]], min_count: int, max_per_phrase: int, seed: int) -> set[int]:
    """Appendix E read literally, phrase by phrase; the random order of a phrase's captions is the filter's own."""
    with_phrase: dict[int, list[int]] = defaultdict(list)
    keys = iter(np.random.default_rng(seed).random(sum(map(len, captions))))
    used = [(caption, phrase) for caption, found in enumerate(captions) for phrase in found]
    counts = Counter(phrase for _, phrase in used)
    key_of = {pair: next(keys) for pair in used if counts[pair[1]] >= min_count}
    for caption, phrase in used:
        with_phrase[phrase].append(caption)
    pool: set[int] = set()
    for phrase in sorted(with_phrase, key=lambda phrase: (counts[phrase], phrase)):
        if counts[phrase] >= min_count:
            pool |= set(sorted(with_phrase[phrase], key=lambda c: key_of[c, phrase])[:max_per_phrase])
    return pool


@pytest.mark.parametrize("seed", range(5))
def test_arrays_choose_what_the_papers_words_choose(seed: int):
    draw = np.random.default_rng(seed)
    captions = [sorted({int(draw.zipf(1.3)) % 300 for _ in range(draw.integers(0, 6))}) for _ in range(2000)]
    number = {phrase: n for n, phrase in enumerate(sorted({phrase for found in captions for phrase in found}))}
    captions = [[number[phrase] for phrase in found] for found in captions]
    chosen = select_captions(mentions_of(captions), 3, 20, seed)
    assert set(np.flatnonzero(chosen).tolist()) == by_the_papers_words(captions, 3, 20, seed)


def test_the_sample_is_fair():
    captions = [[0]] * 200
    taken = sum(select_captions(mentions_of(captions), 1, 50, seed).astype(int) for seed in range(200))
    assert taken.sum() == 200 * 50 and 25 < taken.min() and taken.max() < 80


# phrases by rule


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("A red bus is parked next to the two red buses.", ["red bus", "red buses"]),
        ("a parked car and THE Parked Car", ["parked car"]),
        ("A man in a blue shirt rides his brown horse on the beach", ["man", "blue shirt", "brown horse", "beach"]),
        ("Several people standing around; a t-shirt & a child's toy!", ["people", "t-shirt", "child's toy"]),
        (
            "A white building, a large family, and 3 swimming pools",
            ["white building", "large family", "swimming pools"],
        ),
        ("it is there", []),
        ("", []),
    ],
)
def test_the_rule_finds_noun_phrases(caption: str, phrases: list[str]):
    assert rule_phrases(caption) == phrases


# phrases by spaCy

# Word, part of speech, head, dependency: what a small parser is trained on
SENTENCES = [
    "a/DET/2/det red/ADJ/2/amod bus/NOUN/3/nsubj passes/VERB/3/ROOT the/DET/5/det man/NOUN/3/dobj",
    "the/DET/1/det man/NOUN/2/nsubj sees/VERB/2/ROOT a/DET/5/det black/ADJ/5/amod dog/NOUN/2/dobj",
    "two/NUM/1/nummod dogs/NOUN/2/nsubj chase/VERB/2/ROOT a/DET/5/det red/ADJ/5/amod ball/NOUN/2/dobj",
    "a/DET/2/det black/ADJ/2/amod dog/NOUN/3/nsubj sees/VERB/3/ROOT the/DET/5/det bus/NOUN/3/dobj",
    "it/PRON/1/nsubj passes/VERB/1/ROOT a/DET/3/det ball/NOUN/1/dobj",
]


@pytest.fixture(scope="module")
def spacy_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagger and a parser of English, trained on five sentences: the shape of `en_core_web_sm`, not its knowledge."""
    spacy = pytest.importorskip("spacy")
    from spacy.training import Example

    nlp = spacy.blank("en")
    model = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "width": 32, "depth": 2}
    model |= {"embed_size": 500, "window_size": 1, "maxout_pieces": 2, "subword_features": True}
    nlp.add_pipe("tok2vec", config={"model": model})
    listener = {"@architectures": "spacy.Tok2VecListener.v1", "width": 32}
    nlp.add_pipe("morphologizer", config={"model": {"tok2vec": listener}})
    nlp.add_pipe("parser", config={"min_action_freq": 1, "model": {"tok2vec": listener}})
    examples = []
    for sentence in SENTENCES:
        words, pos, heads, deps = zip(*(token.split("/") for token in sentence.split()), strict=True)
        doc = nlp.make_doc(" ".join(words))
        annotation = {
            "words": words,
            "pos": pos,
            "heads": list(map(int, heads)),
            "deps": deps,
            "morphs": [""] * len(words),
        }
        examples.append(Example.from_dict(doc, annotation))
    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lambda: examples)
    for _ in range(40):
        nlp.update(examples, sgd=optimizer, drop=0.0)
    folder = tmp_path_factory.mktemp("spacy") / "pipeline"
    nlp.to_disk(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_spacy_finds_noun_phrases(spacy_pipeline: Path, num_processes: int):
    extract = phrase_extractor("spacy", str(spacy_pipeline), num_processes)
    captions = ["A red bus passes the man", "it passes a ball", "two dogs chase a red ball"] * 4
    assert list(extract(captions)) == [["red bus", "man"], ["ball"], ["dogs", "red ball"]] * 4


def test_what_is_missing_for_spacy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spacy = pytest.importorskip("spacy")
    with pytest.raises(
        ValueError, match="spacy_model='en_no_such' .*--spacy_model.*--phrases rule.*spacy download en_core"
    ):
        phrase_extractor("spacy", "en_no_such")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ValueError, match="finds no noun chunks, having no parser"):
        phrase_extractor("spacy", str(tmp_path / "blank"))
    with pytest.raises(ValueError, match="phrases='x'"):
        phrase_extractor("x")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ValueError, match=r"llavakit\[data\]"):
        phrase_extractor("spacy")


# files


CAPTIONS = [f"a dog and a toy{number % 40}" for number in range(400)] + ["a green zebra"] * 2 + ["it is there"]


@pytest.mark.slow
def test_a_file_is_balanced(tmp_path: Path, capsys: pytest.CaptureFixture):
    pytest.importorskip("matplotlib")
    file, output = write_captions(tmp_path / "captions.jsonl", CAPTIONS), tmp_path / "kept.jsonl"
    command = ["data", "balance", str(file), "--phrases", "rule", "--max_per_phrase", "5", "-o", str(output)]
    assert main([*command, "--min_count", "3", "--seed", "0"]) == 0
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(row in rows for row in kept) and [row["more"] for row in kept] == sorted(row["more"] for row in kept)
    toys = Counter(row["caption"].split()[-1] for row in kept)
    assert len(toys) == 40 and set(toys.values()) <= {5, 6, 7} and not any("zebra" in row["caption"] for row in kept)
    report = json.loads((tmp_path / "kept.report.json").read_text())
    assert report["num_captions"] == 403 and report["num_kept"] == len(kept) and report["num_phrases"] == 42
    assert report["num_phrases_skipped"] == 1
    assert report["most_frequent"][0] == {"phrase": "dog", "before": 400, "after": len(kept)}
    assert (tmp_path / "kept.png").read_bytes().startswith(b"\x89PNG")
    assert "42 noun phrases: 1 rarer than 3 skipped" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "captions.jsonl",
        "kept.jsonl",
        "kept.png",
        "kept.report.json",
    ]
    first = output.read_text()
    assert main(command) == 0 and output.read_text() == first
    assert main([*command, "--seed", "1"]) == 0 and output.read_text() != first


def test_spacy_balances_a_file(tmp_path: Path, spacy_pipeline: Path):
    file = write_captions(tmp_path / "captions.jsonl", ["a red bus passes the man"] * 9 + ["it passes a ball"] * 2)
    report = balance_captions(
        file, tmp_path / "kept.jsonl", max_per_phrase=4, spacy_model=str(spacy_pipeline), plot=False
    )
    assert report["most_frequent"][0]["phrase"] in ("red bus", "man") and 4 <= report["num_kept"] <= 8


def test_captions_in_lists_and_other_columns(tmp_path: Path):
    rows = [{"id": n, "captions": ["a cat", "a hat"], "note": "a mat"} for n in range(3)]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    arguments = {"phrases": "rule", "plot": False}
    report = balance_captions(tmp_path / "c.json", tmp_path / "k.parquet", **arguments)
    assert {line["phrase"] for line in report["most_frequent"]} == {"cat", "hat"} and report["num_kept"] == 3
    report = balance_captions(tmp_path / "c.json", tmp_path / "k.json", column="note", **arguments)
    assert [line["phrase"] for line in report["most_frequent"]] == ["mat"]
    with pytest.raises(ValueError, match=r"row 0 \(id 0\): other=None is no caption"):
        balance_captions(tmp_path / "c.json", tmp_path / "x.json", column="other", **arguments)
    (tmp_path / "d.json").write_text('[{"id": 1, "title": "a"}]')
    with pytest.raises(ValueError, match="columns .'id', 'title'.; name the one .* --column"):
        balance_captions(tmp_path / "d.json", tmp_path / "x.json", **arguments)
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no captions"):
        balance_captions(tmp_path / "d.json", tmp_path / "x.json", **arguments)
    for name in ("min_count", "max_per_phrase"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            balance_captions(tmp_path / "c.json", tmp_path / "x.json", **{name: 0}, **arguments)
    assert not (tmp_path / "x.json").exists() and not list(tmp_path.glob(".phrases*"))


# Not getrusage: its peak starts at that of the process that started this one
BALANCE = """
import re, sys
from pathlib import Path
from llavakit.data_generation.mixing.concepts import balance_captions
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
balance_captions(sys.argv[1], sys.argv[2], phrases="rule", plot=False)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory as Linux tells it")
def test_memory_holds_no_text(tmp_path: Path):
    """160,000 different phrases of 200 characters: memory holds numbers, and the phrases' text stays on disk."""
    file = tmp_path / "captions.jsonl"
    with file.open("w") as lines:
        for number in range(8_000):
            caption = " and ".join(f"a w{number}x{part}{'y' * 200}" for part in range(20))
            lines.write(json.dumps({"id": number, "caption": caption}) + "\n")
    command = [sys.executable, "-c", BALANCE, str(file), str(tmp_path / "kept.jsonl")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"\n{file.stat().st_size / 1e6:.0f} MB of captions, memory grew by {grown / 1e3:.0f} MB")
    assert grown < 25_000
