"""One reader of row files: what is damaged is one line with file, line and remedy; a byte order mark is read."""

import codecs
import csv
import json
from pathlib import Path

import pytest

from llavakit.evaluation.tasks import mmbench
from llavakit.rows.files import read_rows, read_table, write_rows
from llavakit.rows.loading import load_conversations, read_raw_rows
from llavakit.rows.text_files import read_json

ROW = {"id": "ä", "text": "日本語 😀"}
TEXT = json.dumps(ROW, ensure_ascii=False)


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_with_and_without_byte_order_mark(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes((f"[{TEXT}]" if suffix == ".json" else f"{TEXT}\n\n{TEXT}\r\n").encode(encoding))
    expected = [ROW] if suffix == ".json" else [ROW, ROW]
    assert list(read_rows(path)) == list(read_raw_rows(path)[0]) == expected
    assert read_json(path) == [ROW] if suffix == ".json" else True


DEEP = "[" * 100_000 + "]" * 100_000
DAMAGED = {
    "cp1252.jsonl": ('{"id": "a"}\n{"id": "caf\xe9"}\n'.encode("cp1252"), "line 2 is not UTF-8.*iconv"),
    "cp1252.json": ('[{"id": "caf\xe9"}]'.encode("cp1252"), "line 1 is not UTF-8.*iconv"),
    "bare utf-16.jsonl": (TEXT.encode("utf-16-le"), "line 1 (is not UTF-8|holds a null character)"),
    "half utf-16.json": (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le")[:-1], "no whole UTF-16"),
    "null.jsonl": (b'{"id": "a"}\n{"id": "a\0b"}\n', "line 2 holds a null character"),
    "deep.jsonl": (f'{{"id": "a"}}\n{DEEP}\n'.encode(), "line 2 is nested too deeply.*delete it"),
    "deep.json": (DEEP.encode(), "deep.json is nested too deeply"),
    "digits.jsonl": (b'{"id": ' + b"9" * 9000 + b"}\n", "line 1 is not JSON"),
    "cut.jsonl": (b'{"id": "a"}\n{"id"', "line 2 is not JSON.*Correct the line"),
    "cut.json": (b'[{"id": "a"}', "cut.json is not JSON.*Complete it"),
    "empty.json": (b"", "empty.json is not JSON: it is empty"),
    "garbage.parquet": (b"PAR1 this is none", "no whole parquet file"),
    "empty.parquet": (b"", "no whole parquet file"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_line_and_remedy(tmp_path: Path, name: str) -> None:
    content, says = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    readers = [read_rows, lambda path: read_raw_rows(path)[0]]
    if name.startswith(("cp", "deep.json", "cut.json", "null")):
        readers.append(lambda path: load_conversations(path, on_bad_row="skip"))
    for read in readers:
        with pytest.raises(ValueError, match=says) as caught:
            list(read(tmp_path / name))
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_parquet_file_cut_short(tmp_path: Path) -> None:
    write_rows([ROW] * 50, tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="rows.parquet is no whole parquet file"):
        list(read_rows(tmp_path / "rows.parquet"))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_half_a_character_is_named_where_rows_are_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_rows([ROW], path)
    with pytest.raises(ValueError, match=r"row 1 \(id 'b'\) holds '\\ud83d', half of a character"):
        write_rows([ROW, {"id": "b", "text": "a \ud83d"}], path)
    assert list(read_rows(path)) == [ROW], "what was there stays"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# ---- CSV ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read(tmp_path: Path, encoding: str) -> None:
    text = 'image,caption\r\na.jpg,"A mug, with a ""lid"""\r\n\r\nb.jpg,"two\r\nlines"\r\nc.jpg,6" phone\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    captions = [row["caption"] for _, row in read_table(tmp_path / "t.csv")]
    assert captions == ['A mug, with a "lid"', "two\r\nlines", '6" phone']
    assert [name.rpartition(" ")[2] for name, _ in read_table(tmp_path / "t.csv")] == ["2", "4", "6"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image,caption\na.jpg,A mug\nb.jpg,A mug, with a lid\n", "line 3 has 3 fields for 2 columns.*in quotes"),
        ("image,caption\na.jpg\n", "line 2 has 1 fields for 2 columns"),
        (
            'image,caption\na.jpg,A mug\nb.jpg,"6 inch phone\nc.jpg,A mug\n',
            "from line 3 on breaks the table.*Close each",
        ),
        ('image,caption\na.jpg,"6 inch phone\nb.jpg,"7 inch\n', "from line 2 on breaks the table"),
        ("image,caption,caption\na.jpg,A mug,A mug of clay\n", "line 1 names two columns 'caption'"),
        ("image,caption\na.jpg," + "x" * 140_000 + "\n", "from line 2 on breaks the table.*field larger"),
        ("", "is empty. Its first line must name the columns"),
    ],
)
def test_a_broken_table_stops_the_step(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=f"t.csv.*{says}"):
        list(read_table(tmp_path / "t.csv"))


def test_the_limit_of_a_field_is_of_each_reader(tmp_path: Path) -> None:
    """The csv module has one limit for the process: whoever raises it must not raise it for everybody."""
    before = csv.field_size_limit()
    (tmp_path / "t.tsv").write_text(
        "index\tquestion\tA\tB\timage\n" + "".join(f"{i}\tq\ta\tb\t{'x' * 140_000}\n" for i in (1, 2))
    )
    first = next(table := mmbench.read_table(tmp_path / "t.tsv"))
    assert len(first["image"]) == 140_000 and csv.field_size_limit() == before
    assert len(list(table)) == 1
