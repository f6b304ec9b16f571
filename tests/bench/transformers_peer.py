"""transformers' own ERNIE class as the peer: a process that answers one command a line, so that both sides run in turns in one run.

Reads JSON lines `{"dtype": …, "prompts": [[ids], …], "max_tokens": n}`; answers the prompts one after another, greedily, and prints
`{"seconds": …, "tokens": …, "first": [ids of the first answer]}`.
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        model = model.to(getattr(torch, command["dtype"]))
        count = command["max_tokens"]
        first: list[int] = []
        start = time.perf_counter()
        for prompt in command["prompts"]:
            ids = torch.tensor([prompt])
            with torch.no_grad():
                output = model.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
                )
            first = first or output[0, len(prompt) :].tolist()
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "tokens": count * len(command["prompts"]), "first": first}), flush=True)


if __name__ == "__main__":
    main()
