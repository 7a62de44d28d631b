"""Judges that are hostile, broken or of another dialect: a failed judgment in one line, a journal that stays whole."""

import dataclasses
import gzip
import json
import time
import tracemalloc
import zlib
from types import SimpleNamespace

import pytest

from layerfit.evaluation.judge import reply as reply_module
from layerfit.evaluation.judge.client import JudgeError, Server, retry_after
from layerfit.evaluation.judge.files import Journal, answer_fault, judgment_fault, line_bytes, read_lines
from layerfit.evaluation.judge.rating import Ask
from layerfit.evaluation.judge.run import judge_all
from tests.helpers.judge_server import always, completion, judge

ASKED = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
ASK = Ask("mt_bench", 1, "writing", 1, 0, "single-v1", "S", "U")


def server(url, **changed):
    settings = {"key": None, "max_tokens": 9, "timeout_s": 1, "max_attempts": 2, "base_wait_s": 0.001}
    return Server(url, "judge", **settings | changed)


def text_reply(value, **more):
    return 200, {}, json.dumps({"choices": [{"message": {"content": value}, "finish_reason": "stop", **more}]})


def raw(body, **headers):
    """Answer with these bytes."""

    def answer(handler):
        handler.send_response(200)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


NOT_JUDGMENTS = {
    "a number": text_reply(7),
    "a list": text_reply(["[[7]]"]),
    "a flag": text_reply(True),
    "an object": text_reply({"rating": "[[7]]"}),
    "choices that are a number": (200, {}, '{"choices": 7}'),
    "choices that are text": (200, {}, '{"choices": "[[7]]"}'),
    "choices that are an object": (200, {}, '{"choices": {"0": 1}}'),
    "a choice that is text": (200, {}, '{"choices": ["x"]}'),
    "a message that is text": (200, {}, '{"choices": [{"message": "[[7]]"}]}'),
    "a bare number": (200, {}, "7"),
    "NaN": (200, {}, "NaN"),
    "null": (200, {}, "null"),
    "nothing": (200, {}, ""),
    "deep lists": (200, {}, "[" * 100_000),
    "deep choices": (200, {}, '{"choices":' * 50_000),
    "a huge number": (200, {}, '{"choices": ' + "9" * 5000 + "}"),
    "not UTF-8": raw(b'{"choices": "\xff\xfe"}'),
    "broken gzip": raw(b"\x1f\x8b0123456789", Content_Encoding="gzip"),
    "packed otherwise": raw(zlib.compress(b"{}"), Content_Encoding="deflate"),
    "two packings": raw(gzip.compress(b"{}"), Content_Encoding="gzip, gzip"),
}


@pytest.mark.parametrize("name", NOT_JUDGMENTS)
def test_what_is_no_judgment_is_asked_again_then_fails_in_one_line_and_leaves_the_journal_whole(name, tmp_path):
    path = tmp_path / "j.jsonl"
    other = dataclasses.replace(ASK, question_id=2)
    with judge(lambda n, _: NOT_JUDGMENTS[name] if n > 1 else completion("[[3]]")) as (url, seen):
        with pytest.raises(JudgeError, match=r"2 attempts failed, the last with a reply .*; 1 of 2 judgments are") as e:
            judge_all(server(url), "judge", [ASK, other], "m", path)
        assert len(seen) == 3
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 500
    with judge(always(completion("[[8]]"))) as (url, seen):
        lines = judge_all(server(url), "judge", [ASK, other], "m", path)
        assert len(seen) == 1
    assert [line["score"] for line in lines] == [3, 8]


def test_texts_that_no_file_can_hold_are_mended(tmp_path):
    """Halves of surrogate pairs, and numbers where names belong."""
    more = {"model": 7, "system_fingerprint": [1]}
    body = {"choices": [{"message": {"content": "\ud800 Rating: [[7]] \U0001f600\udfff"}, "finish_reason": 3}], **more}
    path = tmp_path / "j.jsonl"
    with judge(always((200, {}, json.dumps(body)))) as (url, _):
        [line] = judge_all(server(url), "judge", [ASK], "m", path)
    assert (line["judgment"], line["score"]) == ("\ufffd Rating: [[7]] \U0001f600\ufffd", 7)
    assert (line["judge_model"], line["system_fingerprint"], line["finish_reason"]) == (None, None, None)
    assert read_lines(path) == [line]
    assert "\U0001f600".encode() in path.read_bytes()


@pytest.mark.parametrize("packed", [False, True])
def test_a_reply_is_read_up_to_a_bound(packed, monkeypatch):
    """Of a bomb of 64 MiB in 64 KiB no more is unpacked."""
    monkeypatch.setattr(reply_module, "MOST_BYTES", 2**20)
    body = b" " * (2**20 + 1)
    if packed:
        pack = zlib.compressobj(9, wbits=31)
        body = b"".join(pack.compress(bytes(2**20)) for _ in range(64)) + pack.flush()
        assert len(body) < 2**17
    with judge(always(raw(body, **({"Content_Encoding": "gzip"} if packed else {})))) as (url, _):
        tracemalloc.start()
        with pytest.raises(JudgeError, match=r"a reply of more than 1 MiB"):
            server(url, max_attempts=1, timeout_s=20).ask(ASKED)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_packed_reply_is_read():
    body = gzip.compress(completion("[[7]]")[2].encode())
    with judge(always(raw(body, Content_Encoding="gzip"))) as (url, seen):
        assert server(url).ask(ASKED).text == "[[7]]"
    assert seen[0]["headers"]["Accept-Encoding"] == "identity"


def endless_body(handler):
    handler.send_response(200)
    handler.end_headers()
    _for_ever(handler, b" ")


def endless_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    _for_ever(handler, b"X: y\r\n")


def endless_promises(handler):
    _for_ever(handler, b"HTTP/1.1 100 Continue\r\n\r\n")


def _for_ever(handler, piece):
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < 10:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        pass


@pytest.mark.parametrize("endless", [endless_body, endless_headers, endless_promises])
def test_what_never_ends_is_a_time_out(endless):
    """No single read takes long."""
    with judge(always(endless)) as (url, _):
        begin = time.monotonic()
        with pytest.raises(JudgeError, match=r"a time-out after 0\.3 s"):
            server(url, max_attempts=1, timeout_s=0.3).ask(ASKED)
        assert time.monotonic() - begin < 2


def test_an_error_with_hostile_words_is_one_harmless_line():
    words = {"error": {"message": "\x1b[31mred\x1b[0m\nline \u202e" + "x" * 10_000}}
    with judge(always((404, {}, json.dumps(words)))) as (url, _), pytest.raises(JudgeError) as e:
        server(url).ask(ASKED)
    assert str(e.value).isprintable()
    assert "\\x1b[31mred" in str(e.value)
    assert len(str(e.value)) < 400


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"error": ' + "[" * 5000, '{"error": 7}', '{"error": null}', "\ud800"]
)
def test_an_error_without_words_is_an_error(body):
    with judge(always(lambda h: raw(body.encode("utf-8", "surrogatepass"))(h))) as (url, _), pytest.raises(JudgeError):
        server(url).ask(ASKED)
    assert reply_module.parse_refusal(body.encode("utf-8", "surrogatepass"), {"n": 1}).parameter is None


@pytest.mark.parametrize("header", ["nan", "-5", "1e400", "Mon, 99 Foo 0001", "9" * 400, "\x00", ""])
def test_pauses_that_are_none_are_no_pause_or_too_long_a_one(header):
    found = retry_after(header)
    assert found is None or found >= 0


OPENAI = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. "
    "Use 'max_completion_tokens' instead.",
    "temperature": "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is.",
    "n": "n is not supported",
}


def dialect(*refused, named=True, status=400):
    """A server that does not take some parameters, and says so of the first that it meets."""

    def behave(_, body):
        for name in refused:
            if name in body:
                error = {"message": OPENAI[name], "type": "invalid_request_error"}
                return status, {}, json.dumps({"error": error | ({"param": name} if named else {})})
        return completion("[[7]]")

    return behave


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("refused", [("max_tokens",), ("temperature",), ("max_tokens", "temperature", "n")])
def test_a_parameter_that_a_server_does_not_take_is_learnt_once(refused, named, status, capsys):
    kept = {}
    with judge(dialect(*refused, named=named, status=status)) as (url, seen):
        made = server(url, parallel=1, max_attempts=1)
        made.answer([ASKED] * 4, lambda index, reply: kept.update({index: reply}))
        assert len(seen) == 4 + len(refused)
    expected = {"temperature": 0, "max_tokens": 9, "n": 1} | {"max_completion_tokens": 9}
    expected.pop("max_completion_tokens" if "max_tokens" not in refused else "max_tokens")
    expected = {name: value for name, value in expected.items() if name not in refused}
    assert [kept[i].parameters for i in range(4)] == [expected] * 4
    assert {name: value for name, value in seen[-1]["body"].items() if name not in ("model", "messages")} == expected
    assert capsys.readouterr().err.count("does not take") == len(refused)


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 2048; at most 1024 are supported",
        "'max_tokens' or 'max_completion_tokens' is too large: 9. This model's maximum context length is 8.",
        "max_tokens is not supported",  # without another name for it, a judgment has no bound
        "The model `judge` does not exist; it is unknown",
        "Unknown parameter",
    ],
)
def test_another_refusal_stays_one(message):
    with judge(always((400, {}, json.dumps({"error": {"message": message}})))) as (url, seen):
        with pytest.raises(JudgeError, match="refuses: HTTP 400"):
            server(url).ask(ASKED)
        assert len(seen) == 1


def test_a_server_that_refuses_everything_ends():
    with judge(always((400, {}, json.dumps({"error": {"message": "unsupported", "param": "n"}})))) as (url, seen):
        with pytest.raises(JudgeError, match="refuses"):
            server(url).ask(ASKED)
        assert len(seen) == 2


def test_how_a_judge_was_asked_is_in_the_version():
    from layerfit.evaluation.judge.run import _version

    bench, config = SimpleNamespace(fingerprint="f"), SimpleNamespace(model_path=None, judgments=1, template="t")
    config.decoding, config.max_new_tokens = "d", 6
    asked = [{"temperature": 0, "max_tokens": 9}, {"temperature": 0, "max_completion_tokens": 9}, {"max_tokens": 9}]
    versions = [_version(config, bench, "j", [{"parameters": one}]) for one in asked]
    assert versions[0] == "single-v1;last rating;f;judge=j;served=not reported;k=1;t;d;6"
    assert versions[1:] == [f"{versions[0]};max_completion_tokens", f"{versions[0]};temperature of its own"]


BROKEN_LINES = {
    "not JSON": b"{'question_id': 1}",
    "not UTF-8": b'{"question_id": "\xff\xfe"}',
    "not an object": b"[1]",
    "deep": b"[" * 100_000,
    "a huge number": b'{"question_id": ' + b"9" * 5000 + b"}",
    "NUL": b"\0" * 30,
    "of another file": b'{"a": 1}',
    "judge": line_bytes({"question_id": 1, "judge": "x", "user_prompt": "U", "judgment": "[[1]]", "turn": 1})[:-1],
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_a_broken_line_of_a_journal_is_named_set_aside_and_asked_for_again(name, tmp_path, capsys):
    path, more = tmp_path / "j.jsonl", [dataclasses.replace(ASK, question_id=i) for i in (1, 2, 3)]
    with judge(always(completion("[[8]]"))) as (url, seen):
        before = judge_all(server(url, parallel=1), "judge", more, "m", path)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + BROKEN_LINES[name] + b"\n" + lines[2] + lines[1][:40])
        seen.clear()
        after = judge_all(server(url, parallel=1), "judge", more, "m", path)
        assert len(seen) == 1
    assert [line | {"tstamp": 0} for line in after] == [line | {"tstamp": 0} for line in before]
    error = capsys.readouterr().err
    assert f"{path}, line 2: " in error
    assert error.count("\n") == 1
    assert path.with_name("j.jsonl.broken").read_bytes() == BROKEN_LINES[name] + b"\n"
    assert len(read_lines(path)) == 3


def test_a_journal_is_not_written_again_without_need(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a":   1}\n\n')
    before = path.stat().st_ino
    assert Journal(path).lines == [{"a": 1}]
    assert (path.read_bytes(), path.stat().st_ino) == (b'{"a":   1}\n\n', before)


def test_lines_with_halves_of_pairs_are_written_and_read(tmp_path):
    journal = Journal(tmp_path / "j.jsonl")
    journal.append({"text": "\ud800 é"})
    assert Journal(journal.path).lines == [{"text": "\ud800 é"}]


GOOD = {"question_id": 1, "model": "m", "judge": ["j", "p"], "user_prompt": "U", "judgment": "[[1]]", "turn": 1}


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in GOOD for value in (None, True, {}, 1.5)),
        {"judge": ["j"]},
        {"judge": [1, 2]},
        {"finish_reason": 3},
        {"benchmark": []},
        {"repeat": "1"},
        {"parameters": []},
    ],
)
def test_judgments_of_wrong_types_are_seen(change):
    assert judgment_fault(GOOD) is None
    assert judgment_fault(GOOD | {"category": None, "finish_reason": "stop", "parameters": {}}) is None
    assert judgment_fault(GOOD | change)


@pytest.mark.parametrize(
    "choices", [None, [], [1], [{}], [{"turns": "text"}], [{"turns": [1]}], [{"turns": ["a"], "finish": [None]}]]
)
def test_answers_of_wrong_types_are_seen(choices):
    assert answer_fault({"question_id": 1, "choices": [{"turns": ["a"]}]}) is None
    assert answer_fault({"question_id": 1, "choices": choices})
