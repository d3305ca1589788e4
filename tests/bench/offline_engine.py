"""The engine without any server, timed on chat bodies from standard input; runs in the worker's environment.

Prints one JSON object: rows, tokens, seconds (loading not included).
"""

import json
import sys
import time

from vllm import LLM, SamplingParams


def main(folder: str, context_length: int) -> None:
    """Generate all at once, as the engine likes it best."""
    bodies = json.load(sys.stdin)
    engine = LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=context_length,
        enable_chunked_prefill=False,
        max_num_batched_tokens=context_length,
    )
    settings = SamplingParams(temperature=0, max_tokens=bodies[0]["max_tokens"], ignore_eos=True)
    engine.chat([bodies[0]["messages"]], settings, use_tqdm=False)
    started = time.perf_counter()
    outputs = engine.chat([body["messages"] for body in bodies], settings, use_tqdm=False)
    seconds = time.perf_counter() - started
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    print(json.dumps({"rows": len(bodies), "tokens": tokens, "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
