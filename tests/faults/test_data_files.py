"""Data files as users have them, broken ones included: read, or one line with the file and the true line."""

import gzip
import json
import os
import re
import socket
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from layerfit.cli import main
from layerfit.config.schema import DatasetConfig, HubConfig
from layerfit.data.loading import read_split
from layerfit.data.reading import first_row, read_file
from layerfit.data.sources import load_folder
from layerfit.errors import UserError
from layerfit.files.dataset_folder import data_files

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no inputs at {CASES}")
ROW = {"instruction": "sign of home", "input": "", "output": "left"}
LINE = json.dumps(ROW) + "\n"
ROWS = [ROW | {"output": f"left {i}"} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CSV = "instruction,input,output\n" + "".join(f"sign of home,,left {i}\n" for i in range(5))


def local(path):
    return DatasetConfig(name="local", id="local", path=str(path), form="auto", template="auto")


def split_of(path):
    return read_split(local(path), "train", HubConfig())


def refused(path) -> str:
    """The one line with which data is refused."""
    with pytest.raises(UserError) as error:
        split_of(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def pretty(value) -> bytes:
    return json.dumps(value, indent=2).encode()


READ = {
    "a BOM": ("d.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
    "a BOM in a list": ("d.json", b"\xef\xbb\xbf" + pretty(ROWS)),
    "a BOM at every file that was joined": ("d.jsonl", b"\xef\xbb\xbf" + LINES.replace("\n", "\n\ufeff", 2).encode()),
    "a BOM in lines named .json": ("d.json", b"\xef\xbb\xbf" + LINES.encode()),
    "gzip by its name": ("d.jsonl.gz", gzip.compress(LINES.encode())),
    "gzip by its content": ("d.jsonl", gzip.compress(LINES.encode())),
    "gzip in capitals": ("D.JSONL.GZ", gzip.compress(LINES.encode())),
    "a BOM in gzip": ("d.json.gz", gzip.compress(b"\xef\xbb\xbf" + LINES.encode())),
    "capitals": ("D.JSONL", LINES.encode()),
    "ndjson": ("d.ndjson", LINES.encode()),
    "a list in .jsonl": ("d.jsonl", pretty(ROWS)),
    "CRLF": ("d.jsonl", LINES.replace("\n", "\r\n").encode()),
    "CR": ("d.jsonl", LINES.replace("\n", "\r").encode()),
    "blank lines": ("d.jsonl", ("\n \n" + LINES.replace("\n", "\n\n")).encode()),
    "CSV": ("d.csv", CSV.encode()),
    "CSV with a BOM and CRLF": ("d.CSV", b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode()),
    "CSV in gzip": ("d.csv.gz", gzip.compress(CSV.encode())),
    "TSV": ("d.tsv", CSV.replace(",", "\t").encode()),
    "LMFlow": ("d.json", pretty({"type": "conversation", "instances": ROWS})),
    "LMFlow in one line": ("d.json", json.dumps({"type": "x", "instances": ROWS}).encode()),
}


@pytest.mark.parametrize("case", READ)
def test_the_same_rows_give_the_same_fingerprint_however_they_are_written(tmp_path, case):
    name, content = READ[case]
    (tmp_path / "plain.jsonl").write_text(LINES)
    (tmp_path / name).write_bytes(content)
    found = split_of(tmp_path / name)
    assert found.hash == split_of(tmp_path / "plain.jsonl").hash
    assert first_row(tmp_path / name) == ROWS[0]


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def with_column(text: str) -> str:
    return LINE * 2 + f'{{"instruction": "a", "output": "b", "extra": {text}}}\n' + LINE


def bad(**columns) -> str:
    return LINE * 2 + json.dumps(ROW | columns) + "\n" + LINE


REFUSED = {
    "UTF-16": ("d.jsonl", LINES.encode("utf-16"), r"d.jsonl:1: it is UTF-16, .* iconv -f utf-16 -t utf-8 'd.jsonl'"),
    "UTF-16 without a mark": ("d.jsonl", LINES.encode("utf-16-le"), r"d.jsonl:1: it is UTF-16LE"),
    "UTF-32": ("d.json", LINES.encode("utf-32"), r"d.json:1: it is UTF-32"),
    "Latin-1": ("d.jsonl", (LINES + "café\n").encode("latin-1"), r":6: it is not UTF-8 .*0xe9.* Latin-1: .*iconv"),
    "Latin-1 behind CR": ("d.csv", "a,b\r1,2\ré,3\r".encode("latin-1"), r"d.csv:3: it is not UTF-8"),
    "binary": ("d.jsonl", bytes(range(128, 256)) + bytes(range(32)), r"d.jsonl:1: .*not UTF-8 text but binary"),
    "a ZIP archive": ("d.jsonl", b"PK\x03\x04....", "is a ZIP archive .*; unpack it"),
    "zstd": ("d.jsonl", b"\x28\xb5\x2f\xfd....", "compressed by zstd; unpack it"),
    "Parquet by another name": ("d.json", b"PAR1....", "is Parquet; name it .parquet"),
    "text": ("d.txt", b"Once upon a time", "d.txt is of a kind that is not read; give a file .parquet, .jsonl"),
    "a cut line": ("d.jsonl", (LINES + LINE[:30]).encode(), r"d.jsonl:6: it is not JSON: Expecting"),
    "a broken line": ("d.jsonl", (LINES + "{'a': 1}\n" + LINES).encode(), r"d.jsonl:6: it is not JSON: Expecting prop"),
    "a broken first line": ("d.jsonl", ('{"a": "b\n' + LINES).encode(), r"d.jsonl:1: it is not JSON: .*string"),
    "two rows in a line": ("d.jsonl", (LINE + LINE.strip() * 2).encode(), r"d.jsonl:2: more follows"),
    "a list with a mistake": (
        "d.json",
        pretty(ROWS).replace(b'"left 3"', b"left"),
        r"d.json:20: it is not JSON",
    ),
    "a list that is cut": ("d.json", pretty(ROWS)[:-3], r"d.json:26: it is not JSON: Expecting"),
    "a list and more": ("d.json", pretty(ROWS) + b"[]", r"d.json:27: more follows after the end"),
    "no rows": ("d.jsonl", (LINE + "3\n").encode(), r"d.jsonl:2: a file must hold rows, .*; this is a number"),
    "one object": ("d.json", pretty(ROW), r"d.json:1: the file is one JSON object, not rows"),
    "rows under a key": (
        "d.json",
        pretty({"version": 1, "data": ROWS}),
        r"key 'data' holds the rows; .* jq '.data'",
    ),
    "rows under a key, one line": ("d.jsonl", json.dumps({"data": ROWS}).encode(), r"whose key 'data' holds the rows"),
    "a table by columns": ("d.json", pretty({"a": {"0": 1}, "b": {"0": 2}}), "table by columns; .*orient='records'"),
    "a mistake in LMFlow's": (
        "d.json",
        pretty({"type": "t", "instances": [ROW, {"a": 1}]}),
        r"json:9: .*'instruction'",
    ),
    "a key twice": (
        "d.jsonl",
        (LINES + '{"output": "a", "output": "b"}').encode(),
        r":6: .* the key 'output' twice",
    ),
    "a key twice within": ("d.jsonl", with_column('{"k": 1, "k": 1}').encode(), r":3: an object has the key 'k' twice"),
    "nested deeply": ("d.jsonl", with_column(nested(100_000)).encode(), r":3: lists or objects are nested too deeply"),
    "5,000 digits": ("d.jsonl", with_column("1" * 5000).encode(), r":3: a number has too many digits"),
    "half a pair": (
        "d.jsonl",
        bad(output="a\ud83d").encode(),
        r":3: .*'output' has half of a surrogate pair, \\ud83d",
    ),
    "a number": ("d.jsonl", bad(input=3).encode(), r":3: .* needs the text column 'input'; here it is a number"),
    "a truth value": ("d.jsonl", bad(input=True).encode(), r":3: .*'input'; here it is a truth value"),
    "NaN": ("d.jsonl", bad(input=float("nan")).encode(), r":3: .*'input'; here it is NaN"),
    "an infinity": ("d.jsonl", bad(output=float("inf")).encode(), r":3: .*'output'; here it is a number"),
    "a list": ("d.jsonl", bad(input=["a"]).encode(), r":3: .*'input'; here it is a list"),
    "an object": ("d.jsonl", bad(output={"a": 1}).encode(), r":3: .*'output'; here it is an object"),
    "columns without end": (
        "d.jsonl",
        json.dumps(dict.fromkeys(map(str, range(9999)), 0)).encode(),
        r"columns \['0', .{,900}$",
    ),
    "null": ("d.jsonl", bad(output=None).encode(), r":3: .*'output'; here it is null"),
    "a number in a list": ("d.json", pretty([ROW, ROW | {"output": 3}]), r"d.json:7: .*'output'; here it is a number"),
    "a short row of CSV": ("d.csv", (CSV + "a,b\n").encode(), r"d.csv:7: 2 fields, but the header has 3"),
    "a short row behind quotes": ("d.csv", b'a,b\n"x\ny",2\n1\n', r"d.csv:4: 1 fields, but the header has 2"),
    "a quote that is not closed": ("d.csv", (CSV + '"a').encode(), r"d.csv:7: it is not CSV: unexpected end"),
    "a column of CSV twice": ("d.csv", b"a,a\n1,2\n", r"d.csv:1: the header has the column 'a' twice"),
    "a column without a name": ("d.csv", b"a,\n1,2\n", r"d.csv:1: column 2 of the header has no name"),
    "semicolons": ("d.csv", b"instruction;output\na;b\n", r"d.csv:1: the columns are separated by ';'"),
    "gzip that is none": ("d.csv.gz", CSV.encode(), "not a complete gzip file: Not a gzipped"),
    "half of gzip": ("d.jsonl", gzip.compress(LINES.encode() * 99)[:-30], "not a complete gzip file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path, case):
    name, content, expected = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    assert re.search(expected, refused(tmp_path / name)), refused(tmp_path / name)


def test_a_pair_of_surrogates_and_odd_characters_are_text(tmp_path):
    odd = ["😀", "\u2028\u2029\x85", "a\0b", "\u200b", "x" * 1_000_000]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in odd))
    assert [turn.answer for [turn] in split_of(tmp_path / "d.jsonl").read] == odd


def test_a_field_of_csv_keeps_its_line_breaks_and_may_be_long(tmp_path):
    (tmp_path / "d.csv").write_bytes(b'prompt,response\n"a\r\nb","' + b"x" * 200_000 + b'"\n')
    assert read_file(tmp_path / "d.csv") == [{"prompt": "a\r\nb", "response": "x" * 200_000}]


def test_a_row_of_parquet_is_named_and_a_damaged_file_too(tmp_path):
    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.table({"instruction": ["a"] * 3, "output": ["x", None, "y"]}), path)
    assert re.search(r"d.parquet, row 2: .*'output'; here it is null", refused(path))
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * 60 + content[64:])
    assert re.search("d.parquet is (a damaged|not) Parquet", refused(path))
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"]), path)
    assert "has the column 'text' twice" in refused(path)


def test_a_line_in_a_folder_is_that_of_its_file(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    (tmp_path / "b.jsonl").write_text(LINE + '{"instruction": "a"}\n')
    assert re.search(r"b.jsonl:2: .*needs the text column 'output'; the row has", refused(tmp_path))


def plant_fifo(path):
    os.mkfifo(path)


def plant_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


PLANTS = {
    "a FIFO": (plant_fifo, "is a FIFO, not a file or folder"),
    "a socket": (plant_socket, "is a socket, not a file or folder"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is a device, not a file or folder"),
    "a broken link": (lambda path: path.symlink_to("nowhere"), "is a link to nowhere, which is not there"),
    "a circle of links": (lambda path: path.symlink_to(path.name), "cannot be read: Too many levels"),
}


@pytest.mark.parametrize("case", PLANTS)
@pytest.mark.parametrize("folder", [False, True])
def test_what_is_no_file_is_never_opened(tmp_path, monkeypatch, case, folder):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    plant, expected = PLANTS[case]
    plant(Path("train.jsonl"))
    with pytest.raises(UserError, match=expected):
        split_of(tmp_path if folder else Path("train.jsonl"))


def test_a_file_without_permission_is_named(tmp_path, monkeypatch):
    (tmp_path / "d.jsonl").write_text(LINES)

    def denied(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "d.jsonl cannot be read: Permission denied" in refused(tmp_path / "d.jsonl")
    monkeypatch.setattr(Path, "iterdir", denied)
    assert "cannot be read: Permission denied" in refused(tmp_path)


TWICE = {
    "JSON and JSON Lines": {"train.json": pretty(ROWS), "train.jsonl": LINES.encode()},
    "plain and compressed": {"train.jsonl": LINES.encode(), "train.jsonl.gz": gzip.compress(LINES.encode())},
    "names without a split": {"alpaca.json": pretty(ROWS), "alpaca.jsonl": LINES.encode()},
    "CSV": {"data/train.jsonl": LINES.encode(), "data/train.csv": CSV.encode()},
    "something else": {"rows.jsonl": LINES.encode(), "package.json": b'{"name": "x"}'},
}


@pytest.mark.parametrize("case", TWICE)
def test_a_split_in_two_formats_is_refused(tmp_path, case):
    for name, content in TWICE[case].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    said = refused(tmp_path)
    assert "two formats of the split 'train', whose rows would count twice; delete one" in said
    assert all(Path(name).name in said for name in TWICE[case])
    with pytest.raises(UserError, match="two formats"):
        load_folder(tmp_path, None)


def test_a_file_beside_the_data_that_holds_no_rows_is_named(tmp_path):
    (tmp_path / "alpaca.json").write_bytes(pretty(ROWS))
    (tmp_path / "package.json").write_bytes(pretty({"name": "x"}))
    assert re.search(r"package.json:1: the file is one JSON object, not rows", refused(tmp_path))
    (tmp_path / "package.json").unlink()
    (tmp_path / "dataset_infos.json").write_text("{}")  # metadata of older data sets
    assert data_files(tmp_path) == {"train": [tmp_path / "alpaca.json"]}


@pytest.mark.slow
def test_a_mistake_deep_in_a_large_file_is_the_runs_one_line(tmp_path, monkeypatch, capfd):
    """Only the first row is read before the run: the run fails with file and line, without a traceback."""
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "sign of home", "response": "left", "note": "x" * 100_000}
    (tmp_path / "d.jsonl").write_text((json.dumps(row) + "\n") * 170 + '{"prompt": "sign"\n')
    words = "dataset=local dataset.path=d.jsonl model=nano method=full eval=none training.max_steps=1"
    assert main([*words.split(), "training.batch_size=1", "training.max_length=16", "engine.device=cpu"]) == 1
    [path] = (tmp_path / "results" / "runs").glob("*.json")
    result = json.loads(path.read_text())["result"]
    assert result["status"] == "failed"
    assert re.search(r"d.jsonl:171: it is not JSON: Expecting", result["message"])
    assert not list(tmp_path.glob("outputs/*/error.txt"))
    assert "Traceback" not in capfd.readouterr().err


@needs_cases
def test_the_inputs_that_went_wrong():
    """What each of them should do, by its README."""
    plain = split_of(CASES / "30-own" / "crlf.jsonl").hash
    for name in ("02-bom/d.json", "02-bom/d.jsonl", "02-bom/lines.json", "24-compressed/D.JSONL", "30-own/cr.jsonl"):
        assert split_of(CASES / name).hash == plain
    for name in ("24-compressed/d.jsonl.gz", "24-compressed/d.ndjson", "06-lmflow-instances/pretty-list.jsonl"):
        assert split_of(CASES / name).hash == plain
    for name, line in {"07-which-line/d.jsonl": 9, "07-which-line/cut.jsonl": 13, "07-which-line/folder": 6}.items():
        assert f".jsonl:{line}: " in refused(CASES / name)
    for name in ("31-parser-limits/bigint.jsonl", "31-parser-limits/nested.jsonl", "03-lone-surrogate/d.jsonl"):
        assert ".jsonl:13: " in refused(CASES / name)
    for path in sorted((CASES / "04-not-text").glob("*.jsonl")):
        if path.name == "input-null.jsonl":
            split_of(path)
        else:
            assert f"{path.name}:12: " in refused(path)
    for folder in ("data", "plain"):
        assert "two formats" in refused(CASES / "22-same-rows-twice" / folder)
    assert ":1: an object has the key 'output' twice" in refused(CASES / "32-duplicate-keys" / "dup.jsonl")
