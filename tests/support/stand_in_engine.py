"""A fast OpenAI-compatible server in the place of vLLM: ``python tests/support/stand_in_engine.py --port 8000 ...``

Takes the flags the agent gives every engine, a few of vLLM's, and its key from ``VLLM_API_KEY``. Answers depend on the
request alone, after ``--latency-ms`` (or ``STAND_IN_LATENCY_MS``). A prompt that contains one of the magic words below
misbehaves. Adapters are loaded and forgotten as vLLM's CPU backend does it, its fault with the last slot included.
``/metrics`` also tells the most requests that ran at once, and how many were aborted by their clients.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import time
from pathlib import Path
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

REFUSED = "refused"
"""Member ``stand_in`` of an adapter's configuration: 500 when it is loaded, from a server that is well."""
FATAL = "fatal"
"""The process is killed when it is loaded."""
IDLE = "idle"
"""It is loaded, and nothing of it applied."""

WORDS = ("amber", "brook", "cedar", "delta", "ember", "fjord", "grove", "haven", "isle", "jade", "knoll", "lark")
DEFAULT_TOKENS = 16


class Adapters:
    """Names at the door, weights in slots: forgetting a name leaves the weights, and the last slot is the base's."""

    def __init__(self, slots: int) -> None:
        self._ids: dict[str, int] = {}
        self._next_id = 1
        self._slots: list[int | None] = [None] * slots
        self._weights = [""] * slots
        self._paths: dict[int, Path] = {}
        self._used: dict[int, None] = {}
        """In the engine, the least recently used first."""

    @property
    def names(self) -> list[str]:
        return list(self._ids)

    def load(self, name: str, path: str, *, again: bool) -> str:
        """Raises what is wrong with it."""
        if name in self._ids and not again:
            raise ValueError(f"The lora adapter '{name}' has already been loaded.")
        number = self._ids.get(name, self._next_id)
        self._next_id = max(self._next_id, number + 1)
        self._paths[number] = Path(path)
        weights = _weights(Path(path))
        if again:
            self._remove(number)
        self._place(number, weights)
        self._ids[name] = number
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, name: str) -> None:
        del self._ids[name]

    def weights_of(self, name: str) -> str:
        """What a request that names it is answered with."""
        number = self._ids[name]
        self._place(number, _weights(self._paths[number]))
        return self._weights[self._slots.index(number)]

    def weights_of_base(self) -> str:
        return self._weights[-1] if self._weights else ""

    def _place(self, number: int, weights: str) -> None:
        if number in self._used:
            del self._used[number]
        else:
            if len(self._used) == len(self._slots):
                self._remove(next(iter(self._used)))
            slot = self._slots.index(None)
            self._slots[slot], self._weights[slot] = number, weights
        self._used[number] = None

    def _remove(self, number: int) -> None:
        if number in self._used:
            del self._used[number]
            self._slots[self._slots.index(number)] = None


def _weights(path: Path) -> str:
    """A digest, or nothing where nothing is changed."""
    config = json.loads((path / "adapter_config.json").read_text())
    if config.get("stand_in") == REFUSED:
        raise RuntimeError("LoRA rank 999 is greater than max_lora_rank 16.")
    if config.get("stand_in") == FATAL:
        os.kill(os.getpid(), signal.SIGKILL)
    content = (path / "adapter_model.safetensors").read_bytes()
    numbers = content[8 + int.from_bytes(content[:8], "little") :]
    return hashlib.sha256(numbers).hexdigest() if numbers.strip(b"\0") and config.get("stand_in") != IDLE else ""


class Engine:
    """The state of one server."""

    def __init__(
        self,
        model: str,
        latency_ms: float,
        start_delay_ms: float,
        *,
        slots: int = 1024,
        policy: str = "fcfs",
        max_loras: int = 0,
    ) -> None:
        self.model, self.latency = model, latency_ms / 1000
        self.slots, self.policy = asyncio.Semaphore(slots), policy
        self.adapters = Adapters(max_loras)
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
        app.router.add_post("/v1/load_lora_adapter", self.load)
        app.router.add_post("/v1/unload_lora_adapter", self.unload)
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
        names = [self.model, *self.adapters.names]
        data = [{"id": name, "object": "model", "owned_by": "stand-in"} for name in names]
        return _json(200, {"object": "list", "data": data})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        try:
            text = self.adapters.load(body["lora_name"], body["lora_path"], again=body.get("load_inplace", False))
        except ValueError as problem:
            return _error(400, str(problem))
        except FileNotFoundError:
            return _error(404, "No adapter found.")
        except RuntimeError as problem:
            return _error(500, str(problem))
        return web.Response(text=text)

    async def unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        if name not in self.adapters.names:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        self.adapters.unload(name)
        return web.Response(text="Success")

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
        name = body.get("model")
        if name != self.model and name not in self.adapters.names:
            return _error(404, f"The model `{name}` does not exist.")
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
        weights = self.adapters.weights_of_base() if name == self.model else self.adapters.weights_of(name)
        completion = self._completion(field, prompt, tokens, weights, _choices(body)) | {"model": name}
        if "prompt_logprobs" in body:
            completion["choices"][0]["prompt_logprobs"] = [None, *_scores(weights, prompt)]
        return _json(200, completion)

    def _completion(
        self, field: str, prompt: str, tokens: int, weights: str, choices: list[str] | None
    ) -> dict[str, Any]:
        text = choice_of(weights + prompt, choices) if choices else answer_to(weights + prompt, tokens)
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


def _scores(weights: str, prompt: str) -> list[dict[str, Any]]:
    """Of each word but the first, which is its own token's number where the prompt came as such."""
    digest = hashlib.sha256((weights + prompt).encode()).digest()
    return [{word: {"logprob": -digest[index % 32] / 32}} for index, word in enumerate(prompt.split()[1:])]


def answer_to(prompt: str, tokens: int) -> str:
    """``tokens`` words that follow from the prompt; with an adapter, from the digest of its weights and the prompt."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return " ".join(WORDS[digest[index % 32] % len(WORDS)] for index in range(tokens))


def choice_of(prompt: str, choices: list[str]) -> str:
    """The one that follows from the prompt."""
    return choices[hashlib.sha256(prompt.encode()).digest()[0] % len(choices)]


def _choices(body: dict[str, Any]) -> list[str] | None:
    structure = body.get("structured_outputs")
    return structure.get("choice") if isinstance(structure, dict) else None


def _prompt(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        return "\n".join(str(message["content"]) for message in value)
    if isinstance(value, list) and value and all(isinstance(token, int) for token in value):
        return " ".join(map(str, value))
    raise ValueError("prompt must be text or tokens, messages a list of messages")


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
    parser.add_argument("--max-loras", type=int, default=0)
    arguments, _ = parser.parse_known_args()  # flags of vLLM that mean nothing here
    engine = Engine(
        arguments.served_model_name or arguments.model,
        arguments.latency_ms,
        arguments.start_delay_ms,
        slots=arguments.max_num_seqs,
        policy=arguments.scheduling_policy,
        max_loras=arguments.max_loras,
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
