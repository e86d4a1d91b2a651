"""A fake vLLM executable with vLLM's command line and HTTP interface; it answers `seen SEED: PROMPT`.

The environment says how it behaves: FAKE_VLLM_LOG takes one JSON line per event, FAKE_VLLM_ENDS_AFTER is the number of
answers after which it exits, or `start` to exit at once.
"""

import argparse
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENDS_AFTER = os.environ.get("FAKE_VLLM_ENDS_AFTER", "never")
answered = threading.Semaphore(int(ENDS_AFTER)) if ENDS_AFTER.isdigit() else None


def note(**event: Any) -> None:
    with open(os.environ["FAKE_VLLM_LOG"], "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps(event) + "\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        note(request=body)
        if answered is not None and not answered.acquire(blocking=False):
            time.sleep(0.3)  # until the earlier answers are sent
            print("torch.OutOfMemoryError: CUDA out of memory", flush=True)
            os._exit(3)
        prompt = body["messages"][-1]["content"]
        message = {"role": "assistant", "content": f" seen {body['seed']}: {prompt}"}
        usage = {"prompt_tokens": 30, "completion_tokens": 7}
        choice = {"index": 0, "message": message, "finish_reason": "length" if "long" in prompt else "stop"}
        self.send({"id": "chatcmpl-1", "model": body["model"], "choices": [choice], "usage": usage})

    def send(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    for name in ("--served-model-name", "--host", "--max-model-len"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments, _ = parser.parse_known_args()
    note(pid=os.getpid(), started=vars(arguments), offline=os.environ.get("HF_HUB_OFFLINE"))
    if ENDS_AFTER == "start":
        print("ValueError: the model does not fit", flush=True)
        sys.exit(1)
    ThreadingHTTPServer((arguments.host, arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
