"""The client against a real server that misbehaves in every way that one does."""

import email.utils
import json
import subprocess
import sys
import time

import pytest

from layerfit.evaluation.judge import client
from layerfit.evaluation.judge.client import JudgeError, Server, host_of, is_loopback, retry_after
from tests.helpers.judge_server import always, completion, judge

ASKED = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]


def server(url, **changed):
    settings = {"key": "secret", "max_tokens": 9, "timeout_s": 0.3, "max_attempts": 3, "base_wait_s": 0.01}
    return Server(url, "judge", **settings | changed)


def test_the_request_is_an_openai_chat_completion_at_temperature_0():
    with judge(always(completion("Rating: [[7]]"))) as (url, seen):
        reply = server(url).ask(ASKED)
    assert (reply.text, reply.model, reply.fingerprint, reply.finish) == ("Rating: [[7]]", "judge-2024", "fp", "stop")
    assert seen[0]["path"] == "/v1/chat/completions"
    assert seen[0]["body"] == {"model": "judge", "messages": ASKED, "temperature": 0, "max_tokens": 9, "n": 1}
    assert seen[0]["headers"]["Authorization"] == "Bearer secret"


def test_without_a_key_none_is_sent():
    with judge(always(completion("x"))) as (url, seen):
        server(url, key=None).ask(ASKED)
    assert "Authorization" not in seen[0]["headers"]


def slow(handler):
    time.sleep(1)


def hang_up(handler):
    handler.connection.close()


def half(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": ')


def trickle(handler):
    """One byte now and then: no single read times out, the whole must."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(10):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)
    except OSError:
        pass


BAD = {
    "a time-out": (slow, "time-out after 0.3 s"),
    "trickling": (trickle, "time-out after 0.3 s"),
    "hanging up": (hang_up, "connection"),
    "half a body": (half, "broken connection: RemoteProtocolError"),
    "500": ((500, {}, "oh"), r"HTTP 500 \(oh\)"),
    "503": ((503, {}, json.dumps({"error": {"message": "a\nlong story"}})), r"HTTP 503 \(a long story\)"),
    "429": ((429, {"Retry-After": "0"}, ""), "HTTP 429"),
    "no JSON": ((200, {}, "<html>"), "not a chat completion: '<html>'"),
    "no choices": ((200, {}, '{"choices": []}'), "not a chat completion"),
    "a list": ((200, {}, "[1]"), "not a chat completion"),
    "no text": ((200, {}, '{"choices": [{"message": {"content": [1]}}]}'), "without text"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_may_mend_is_asked_again_and_the_last_reason_is_named(name):
    reply, reason = BAD[name]
    with judge(lambda number, _: completion("[[3]]") if number == 3 else reply) as (url, seen):
        assert server(url).ask(ASKED).text == "[[3]]"
        assert len(seen) == 3
    with judge(always(reply)) as (url, seen):
        with pytest.raises(
            JudgeError, match=rf"judge judge at {url}: 2 attempts failed, the last with .*{reason}"
        ) as e:
            server(url, max_attempts=2).ask(ASKED)
        assert len(seen) == 2
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("status", "headers"), [(400, {}), (401, {}), (404, {}), (302, {"Location": "/v1/other"})])
def test_what_does_not_mend_is_asked_once(status, headers):
    with judge(always((status, headers, '{"error": {"message": "no such model"}}'))) as (url, seen):
        with pytest.raises(JudgeError, match=rf"refuses: HTTP {status} \(no such model\)"):
            server(url).ask(ASKED)
        assert len(seen) == 1


def test_nobody_there_is_said():
    with judge(always(completion("x"))) as (url, _):
        pass
    with pytest.raises(JudgeError, match="2 attempts failed, the last with no connection"):
        server(url, max_attempts=2).ask(ASKED)


def test_silence_is_asked_again_and_then_kept():
    with judge(always(completion(""))) as (url, seen):
        assert server(url).ask(ASKED).text == ""
    assert len(seen) == 3


def test_retry_after_is_waited_for():
    begin = time.monotonic()
    with judge(lambda n, _: completion("x") if n == 2 else (429, {"Retry-After": "1"}, "")) as (url, _):
        server(url).ask(ASKED)
    assert 1 <= time.monotonic() - begin < 2


def test_retry_after_beyond_patience_ends_it():
    with judge(always((429, {"Retry-After": "86400"}, ""))) as (url, seen):
        with pytest.raises(JudgeError, match=r"asks for a pause of 86400 s: HTTP 429"):
            server(url).ask(ASKED)
        assert len(seen) == 1


def test_retry_after_reads_seconds_and_dates():
    assert retry_after("7") == 7
    assert retry_after(email.utils.formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=2)
    assert retry_after(email.utils.formatdate(0, usegmt=True)) == 0
    assert [retry_after(header) for header in (None, "soon")] == [None, None]


def test_pauses_double_and_vary(monkeypatch):
    slept = []
    monkeypatch.setattr(client, "sleep", slept.append)
    with judge(always((500, {}, ""))) as (url, _), pytest.raises(JudgeError):
        server(url, max_attempts=10, base_wait_s=1.0).ask(ASKED)
    assert len(slept) == 9
    for number, pause in enumerate(slept):
        assert 0.5 <= pause / min(60, 2**number) <= 1.5
    assert len({round(pause / min(60, 2**number), 6) for number, pause in enumerate(slept)}) == 9


def test_a_failure_ends_the_rest_and_keeps_what_came():
    def behave(number, body):
        return completion("[[5]]") if body["messages"][1]["content"] in ("0", "1") else (401, {}, "")

    kept = {}
    talks = [[ASKED[0], {"role": "user", "content": str(number)}] for number in range(50)]
    with judge(behave) as (url, seen), pytest.raises(JudgeError, match="HTTP 401"):
        server(url, parallel=2).answer(talks, lambda index, reply: kept.update({index: reply.text}))
    assert kept == {0: "[[5]]", 1: "[[5]]"}
    assert len(seen) < 10


def test_replies_keep_their_index_when_many_are_under_way():
    def behave(number, body):
        time.sleep(0.002 * (number % 5))
        return completion(body["messages"][1]["content"])

    kept = {}
    talks = [[ASKED[0], {"role": "user", "content": str(number)}] for number in range(40)]
    with judge(behave) as (url, _):
        server(url, parallel=8, timeout_s=5).answer(talks, lambda index, reply: kept.update({index: reply.text}))
    assert kept == {number: str(number) for number in range(40)}


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "http://localhost/v1", "https://[::1]:1/v1", "http://127.9.9.9"]
)
def test_loopback(url):
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url",
    ["https://api.example.com/v1", "http://127.0.0.1.example.com", "http://localhost.example.com", "http://10.0.0.1"],
)
def test_not_loopback(url):
    assert host_of(url) is not None
    assert not is_loopback(url)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://", "http://h:port/v1", ""])
def test_no_address(url):
    assert host_of(url) is None
    assert not is_loopback(url)


@pytest.mark.parametrize("key", ["sec\nret", "s\u00e9cret"])
def test_a_key_that_no_header_can_carry_is_not_printed(key):
    with judge(always(completion("x"))) as (url, seen):
        with pytest.raises(JudgeError, match="the key has characters") as e:
            server(url, key=key).ask(ASKED)
        assert seen == []
    assert e.value.__cause__ is None
    assert e.value.__context__ is None


def test_a_proxy_of_the_environment_is_used_for_other_machines(monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    with judge(always(completion("by the proxy"))) as (url, seen):
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1"))
        assert server("http://judge.invalid/v1").ask(ASKED).text == "by the proxy"
    assert seen[0]["path"] == "http://judge.invalid/v1/chat/completions"


def test_importing_the_client_leaves_httpx2_alone():
    code = "import sys, layerfit.evaluation.judge.client; sys.exit('httpx2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_proxy_never_sees_what_is_asked_on_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with judge(always(completion("x"))) as (url, _):
        assert server(url).ask(ASKED).text == "x"
