"""Text that is not English: counted by characters where no blanks part words, compared, and left alone by English rules."""

import json
from pathlib import Path

import pytest

from llavakit.cli import main
from llavakit.data_generation.answers.forms import looks_cut_off
from llavakit.data_generation.answers.samples import Sample
from llavakit.data_generation.filters import FILTERS, make_filters
from llavakit.data_generation.filters.filtering import filter_run
from llavakit.data_generation.filters.near_duplicates import NearDuplicates, word_pairs
from llavakit.data_generation.languages import count_words, is_english, sentences, tokens
from llavakit.data_generation.mixing.concepts import balance_captions
from llavakit.rows.files import read_rows, write_rows

# A dog on a sofa, and a bus in the rain, as an annotator of the language would write it
DOG = {
    "Chinese": (
        "一只棕色的狗睡在沙发上，旁边有一个柔软的枕头，它的爪子缩在身下。窗外的阳光照在地板上，房间里很安静。"
    ),
    "Japanese": (
        "茶色い犬がソファの上で、柔らかい枕の隣で足をたたんで眠って"
        "います。窓から差し込む光が床を照らし、部屋はとても静かです。"
    ),
    "Thai": ("สุนัขสีน้ำตาลนอนหลับอยู่บนโซฟาข้างหมอนนุ่ม โดยเก็บอุ้งเท้าไว้ใต้ตัว แสงแดดจากหน้าต่างส่องลงบนพื้น และห้องก็เงียบมาก"),
    "Korean": (
        "갈색 개가 소파 위에서 부드러운 베개 옆에 발을 모으고 자고 있으며 "
        "창문으로 들어온 햇빛이 바닥을 비추고 방은 매우 조용합니다."
    ),
    "Hindi": ("एक भूरा कुत्ता सोफे पर मुलायम तकिये के पास पंजे समेटकर सो रहा है। खिड़की से आती धूप फर्श पर पड़ रही है और कमरा शांत है।"),
    "German": (
        "Ein brauner Hund schläft auf dem Sofa neben einem weichen Kissen. "
        "Die Sonne scheint durch das Fenster auf den Boden."
    ),
}
BUS = {
    "Chinese": ("红色的公共汽车在雨中驶过一条湿漉漉的街道，两个人撑着伞在车站等候，远处是一座灰色的石头大楼。"),
    "Japanese": (
        "赤いバスが雨の中、濡れた通りを走り、二人が傘をさして停留所で待っている。遠くには灰色の石造りの建物が見える。"
    ),
    "Thai": ("รถบัสสีแดงแล่นไปตามถนนเปียกท่ามกลางสายฝน ชายสองคนกางร่มยืนรอที่ป้าย ไกลออกไปมีอาคารหินสีเทาตั้งตระหง่าน"),
    "Korean": (
        "빨간 버스가 빗속에서 젖은 거리를 달리고 두 사람이 우산을 "
        "쓰고 정류장에서 기다리며 멀리 회색 석조 건물이 보입니다."
    ),
    "Hindi": ("लाल बस बारिश में गीली सड़क पर चल रही है और दो लोग छाता लेकर स्टॉप पर इंतज़ार कर रहे हैं। दूर एक पत्थर की इमारत है।"),
    "German": (
        "Ein roter Bus fährt durch den Regen die nasse Straße entlang. "
        "Zwei Leute warten mit Schirmen an der Haltestelle."
    ),
}
UNSPACED = ("Chinese", "Japanese", "Thai")


def sample(text: str, type: str = "detail", id: str = "0") -> Sample:
    return Sample(id, type, None, [("Describe the image.", text)], {"captions": ["A dog."], "instances": []})


@pytest.mark.parametrize("language", DOG)
def test_a_description_in_any_language_passes_the_filters(language: str) -> None:
    checks = make_filters([name for name, entry in FILTERS.items() if not entry.english_only])
    assert set(checks) == {"length", "boxes", "near_duplicates"}
    assert {check(sample(DOG[language])) for check in checks.values()} == {None}
    assert not is_english(DOG[language]) and not looks_cut_off(DOG[language])


@pytest.mark.parametrize("language", UNSPACED)
def test_lengths_are_counted_by_characters_where_no_blanks_part_words(language: str) -> None:
    length = make_filters(["length"])["length"]
    assert 10 < count_words(DOG[language]) < 60
    assert "fewer than 10" in str(length(sample(DOG[language][:8])))
    assert "more than 400" in str(length(sample(DOG[language] * 25)))


def test_counts_of_mixed_and_of_english_text() -> None:
    assert count_words("A brown dog - on a sofa") == 7 == len("A brown dog - on a sofa".split())
    assert count_words("一只狗") == 2 and count_words("这是 iPhone 手机。") == 1 + 3
    assert tokens("Hello, 世界! สวัสดี naïve हिन्दी") == ["hello", "世", "界", "สวัสดี", "naïve", "हिन्दी"]
    assert sentences("一只狗。它在睡！真的吗？") == ["一只狗。", "它在睡！", "真的吗？"]
    assert sentences("It is 3.5 m. So what?") == ["It is 3.5 m.", "So what?"]


@pytest.mark.parametrize("language", DOG)
def test_near_duplicates_are_found_in_any_language(language: str) -> None:
    check, text = NearDuplicates(), DOG[language]
    assert check(sample(text, id="first")) is None
    assert check(sample(BUS[language], id="other")) is None
    assert check(sample(text[3:], id="copy")) == "says nearly the same as 'first'"
    one, other = (set(word_pairs(texts[language]).tolist()) for texts in (DOG, BUS))
    assert len(one & other) / len(one | other) < 0.2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("一只棕色的狗睡着了。它很安静。一只棕色的狗睡着了。", "says twice: '一只棕色的狗睡着了。'"),
        ("是的。是的。", None),
    ],
)
def test_a_sentence_said_twice_without_a_blank(text: str, reason: str | None) -> None:
    assert NearDuplicates()(sample(text)) == reason


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (DOG["Chinese"][:-1] + "而且", True),
        (DOG["Chinese"][:23], True),
        (DOG["Japanese"][:40], True),
        (DOG["Thai"], False),  # sentences of Thai end in no mark
        (DOG["Hindi"], False),
        ("两只狗", False),
    ],
)
def test_answers_cut_off(text: str, cut: bool) -> None:
    assert looks_cut_off(text) == cut


def test_what_knows_english_alone_passes_the_rest_and_says_how_many(tmp_path: Path, capsys) -> None:
    texts = [*DOG.values(), "According to the captions, it is a dog.", "Laut den Bildunterschriften ist das ein Hund."]
    rows = [
        {
            "id": str(number),
            "image": "a.jpg",
            "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": text}],
        }
        for number, text in enumerate(texts)
    ]
    write_rows(rows, tmp_path / "rows.json")
    assert main(["data", "filter", str(tmp_path / "rows.json"), "-o", str(tmp_path / "kept.jsonl")]) == 0
    said = capsys.readouterr().out
    assert f"meta_talk: {len(DOG)} passed without being judged, since it knows English alone" in said
    assert [row["id"] for row in read_rows(tmp_path / "kept.rejected.jsonl")] == [str(len(DOG))]
    report = json.loads((tmp_path / "kept.report.json").read_text())
    assert report["not_judged"] == {"meta_talk": len(DOG), "generic": len(DOG)}
    assert filter_run(tmp_path / "rows.json", tmp_path / "x.jsonl", ["length", "boxes"])["not_judged"] == {}
    with pytest.raises(SystemExit):
        main(["data", "filter", "--help"])
    named = " ".join(capsys.readouterr().out.split())
    for name, entry in FILTERS.items():
        assert f"{name}: {entry.help}{' (English)' if entry.english_only else ''}" in named


def test_captions_that_the_english_rule_cannot_judge_are_kept(tmp_path: Path, capsys) -> None:
    pytest.importorskip("matplotlib")
    captions = ["A red bus on a street."] * 5 + [DOG["Chinese"], BUS["German"]]
    write_rows([{"caption": caption} for caption in captions], tmp_path / "captions.jsonl")
    command = ["data", "balance", str(tmp_path / "captions.jsonl"), "--phrases", "rule", "--max_per_phrase", "2"]
    assert main([*command, "--no_plot", "-o", str(tmp_path / "kept.jsonl")]) == 0
    kept = [row["caption"] for row in read_rows(tmp_path / "kept.jsonl")]
    assert kept[-2:] == captions[-2:] and 2 <= len(kept) - 2 <= 4
    assert "2 captions are kept unjudged: they are not in English" in capsys.readouterr().out
    report = balance_captions(tmp_path / "captions.jsonl", tmp_path / "k.jsonl", phrases="rule", plot=False)
    assert report["num_not_judged"] == 2


def test_english_is_known_by_its_small_words() -> None:
    english = [
        "A brown dog sleeps on a couch next to a soft pillow, with its paws tucked in.",
        "Two dogs.",
        "I don't know.",
    ]
    others = ["Un chien brun dort sur un canapé à côté d'un coussin moelleux, avec ses pattes repliées."]
    others += [
        "Een bruine hond slaapt op een bank naast een zacht kussen en dat is of was in de kamer.",
        *DOG.values(),
    ]
    assert all(map(is_english, english)) and not any(map(is_english, others))
