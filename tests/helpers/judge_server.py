"""A judge that really listens, and does what a test tells it to; a benchmark of three questions for it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from layerfit.config.judge import JudgeConfig
from layerfit.config.schema import EvalConfig, HubConfig, ModelConfig
from layerfit.evaluation.judge.files import load_bench

NANO = ModelConfig(name="nano", id="layerfit/nano", num_layers=16, max_positions=128)


def completion(text, **more):
    """A chat completion as a well-behaved server sends it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return 200, {}, json.dumps({"model": "judge-2024", "system_fingerprint": "fp", "choices": [choice], **more})


def always(reply):
    """A behaviour that never changes."""
    return lambda *_: reply


@contextmanager
def judge(behave):
    """Serve `behave(number, request) -> (status, headers, body)` on a free port; yields its address and the requests.

    A behaviour may also be a function of the handler, which then answers by itself.
    """
    seen, lock = [], threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.append({"path": self.path, "body": body, "headers": dict(self.headers)})
                number = len(seen)
            reply = behave(number, body)
            self.close_connection = True
            if callable(reply):
                reply(self)
                return
            status, headers, text = reply
            self.send_response(status)
            for key, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["sign of sofe ruvoson", "pogo fevason eats"]},
    {"question_id": 2, "category": "math", "turns": ["pogo fevason eats", "sign of sofe ruvoson"]},
    {"question_id": 3, "category": "coding", "turns": ["sofe", "ruvoson"]},
]
REFERENCES = [
    {"question_id": number, "choices": [{"index": 0, "turns": [f"REF{number}A", f"REF{number}B"]}]} for number in (2, 3)
]
PROMPTS = [
    {"name": "single-v1", "system_prompt": "S", "prompt_template": "Q {question} A {answer}"},
    {"name": "single-math-v1", "system_prompt": "S", "prompt_template": "Q {question} R {ref_answer_1} A {answer}"},
    {
        "name": "single-v1-multi-turn",
        "system_prompt": "M",
        "prompt_template": "Q {question_1} A {answer_1} Q {question_2} A {answer_2}",
    },
    {
        "name": "single-math-v1-multi-turn",
        "system_prompt": "M",
        "prompt_template": "Q {question_1} R {ref_answer_1} Q {question_2} R {ref_answer_2} A {answer_1} A {answer_2}",
    },
]


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_bench(folder, questions=QUESTIONS, references=REFERENCES, name="mt_bench"):
    """Write a benchmark in FastChat's layout; returns its data folder."""
    write_lines(folder / "judge_prompts.jsonl", PROMPTS)
    write_lines(folder / name / "question.jsonl", questions)
    write_lines(folder / name / "reference_answer" / "gpt-4.jsonl", references)
    return folder


def fingerprints(data, *names):
    """The benchmarks of a data folder as `eval.judge.benchmarks` names them, pinned to what is there."""
    wanted = JudgeConfig(dict.fromkeys(names), data=str(data))
    return {name: load_bench(wanted, name, HubConfig()).fingerprint for name in names}


def config(data, url=None, limit=None, benchmarks=("mt_bench",), **changed):
    """An evaluation of such benchmarks, pinned unless it is said how, with the key in JUDGE_KEY."""
    benchmarks = benchmarks if isinstance(benchmarks, dict) else fingerprints(data, *benchmarks)
    settings = {"data": str(data), "model": "judge", "base_url": url, "template": "plain"}
    settings |= {"key_variable": "JUDGE_KEY", "max_new_tokens": 6, "max_attempts": 2}
    made = JudgeConfig(**settings | {"benchmarks": benchmarks} | changed)
    return EvalConfig(name="mt_bench", limit=limit, batch_size=2, judge=made)
