"""A fast OpenAI-compatible server in the place of vLLM: ``python tests/support/stand_in_engine.py --port 8000 ...``

Takes the flags the agent gives every engine, a few of vLLM's, and its key from ``VLLM_API_KEY``. Answers depend on the
request alone, after ``--latency-ms`` (or ``STAND_IN_LATENCY_MS``). A prompt that contains one of the magic words below
misbehaves.
``/metrics`` also tells the most requests that ran at once, and how many were aborted by their clients.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import signal
import time
from typing import Any

import orjson
from aiohttp import web

DIE = "__die__"
"""The process is killed, at once."""
SICK = "__sick__"
"""From now on /health is 503 and every request 500, as of a vLLM whose engine process has died."""
SLOW = "__slow__"
"""Never answered."""
BROKEN = "__broken__"
"""500 from a server that is well."""
GARBLED = "__garbled__"
"""200 with a body that is not JSON."""

WORDS = ("amber", "brook", "cedar", "delta", "ember", "fjord", "grove", "haven", "isle", "jade", "knoll", "lark")
DEFAULT_TOKENS = 16


class Engine:
    """The state of one server."""

    def __init__(
        self, model: str, latency_ms: float, start_delay_ms: float, *, slots: int = 1024, policy: str = "fcfs"
    ) -> None:
        self.model, self.latency = model, latency_ms / 1000
        self.slots, self.policy = asyncio.Semaphore(slots), policy
        self.waiting = 0
        self.ready_at = time.monotonic() + start_delay_ms / 1000
        self.key = os.environ.get("VLLM_API_KEY", "")
        self.running = self.max_running = self.finished = self.aborted = 0
        self.sick = False

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        return app

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.sick or time.monotonic() < self.ready_at else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        label = f'{{model_name="{self.model}"}}'
        lines = [
            f"vllm:num_requests_running{label} {self.running}",
            f"vllm:num_requests_waiting{label} {self.waiting}.0",
            f'vllm:num_requests_waiting_by_reason{{model_name="{self.model}",reason="capacity"}} {self.waiting}.0',
            f"stand_in:max_requests_running{label} {self.max_running}",
            f"stand_in:requests_finished_total{label} {self.finished}",
            f"stand_in:requests_aborted_total{label} {self.aborted}",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def models(self, request: web.Request) -> web.Response:
        return _json(200, {"object": "list", "data": [{"id": self.model, "object": "model", "owned_by": "stand-in"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "messages")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, "prompt")

    async def _answer(self, request: web.Request, field: str) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return _error(401, "Unauthorized")
        try:
            body = orjson.loads(await request.read())
            prompt = _prompt(body[field])
            tokens = int(body.get("max_completion_tokens") or body.get("max_tokens") or DEFAULT_TOKENS)
        except (ValueError, KeyError, TypeError) as problem:
            return _error(400, f"{type(problem).__name__}: {problem}")
        if body.get("model") != self.model:
            return _error(404, f"The model `{body.get('model')}` does not exist.")
        if body.get("priority") and self.policy != "priority":
            return _error(400, "Got priority but priority scheduling is not enabled.")
        self.waiting += 1
        try:
            await self.slots.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            if self.sick or SICK in prompt or BROKEN in prompt:
                self.sick = self.sick or SICK in prompt
                return _error(500, "the engine has a problem")
            if DIE in prompt:
                os.kill(os.getpid(), signal.SIGKILL)
            if GARBLED in prompt:
                return web.Response(text="<html>", content_type="text/html")
            await asyncio.sleep(86_400 if SLOW in prompt else self.latency)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.running -= 1
            self.slots.release()
        self.finished += 1
        if body.get("stream"):
            return await self._stream(request, field, body, prompt, tokens)
        return _json(200, self._completion(field, prompt, tokens))

    def _completion(self, field: str, prompt: str, tokens: int) -> dict[str, Any]:
        text = answer_to(prompt, tokens)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
        if field == "messages":
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return self._frame(field, prompt, [choice]) | {"usage": _usage(prompt, tokens)}

    def _frame(self, field: str, prompt: str, choices: list[dict[str, Any]], suffix: str = "") -> dict[str, Any]:
        identifier = hashlib.sha256(prompt.encode()).hexdigest()[:24]
        kind, prefix = (f"chat.completion{suffix}", "chatcmpl") if field == "messages" else ("text_completion", "cmpl")
        return {"id": f"{prefix}-{identifier}", "object": kind, "created": 0, "model": self.model, "choices": choices}

    async def _stream(
        self, request: web.Request, field: str, body: dict[str, Any], prompt: str, tokens: int
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        words = answer_to(prompt, tokens).split(" ")
        for position, word in enumerate(words):
            text = word if position == 0 else f" {word}"
            last = "length" if position + 1 == len(words) else None
            choice: dict[str, Any] = {"index": 0, "finish_reason": last}
            choice |= {"delta": {"content": text}} if field == "messages" else {"text": text}
            await response.write(_event(self._frame(field, prompt, [choice], ".chunk")))
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(_event(self._frame(field, prompt, [], ".chunk") | {"usage": _usage(prompt, tokens)}))
        await response.write(b"data: [DONE]\n\n")
        return response


def answer_to(prompt: str, tokens: int) -> str:
    """``tokens`` words that follow from the prompt."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return " ".join(WORDS[digest[index % 32] % len(WORDS)] for index in range(tokens))


def _prompt(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        return "\n".join(str(message["content"]) for message in value)
    raise ValueError("prompt must be text, messages a list of messages")


def _usage(prompt: str, tokens: int) -> dict[str, int]:
    words = len(prompt.split())
    return {"prompt_tokens": words, "completion_tokens": tokens, "total_tokens": words + tokens}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _json(status: int, content: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return _json(status, {"error": {"message": message, "type": "StandInError", "param": None, "code": status}})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model", default="stand-in")
    parser.add_argument("--served-model-name")
    parser.add_argument("--latency-ms", type=float, default=float(os.environ.get("STAND_IN_LATENCY_MS", "0")))
    parser.add_argument("--start-delay-ms", type=float, default=float(os.environ.get("STAND_IN_START_DELAY_MS", "0")))
    parser.add_argument("--max-num-seqs", type=int, default=1024)
    parser.add_argument("--scheduling-policy", default="fcfs")
    arguments, _ = parser.parse_known_args()  # flags of vLLM that mean nothing here
    engine = Engine(
        arguments.served_model_name or arguments.model,
        arguments.latency_ms,
        arguments.start_delay_ms,
        slots=arguments.max_num_seqs,
        policy=arguments.scheduling_policy,
    )
    web.run_app(
        engine.app(),
        host=arguments.host,
        port=arguments.port,
        access_log=None,
        print=None,
        handler_cancellation=True,  # a client that goes away aborts its request
        shutdown_timeout=0.5,
    )


if __name__ == "__main__":
    main()
