"""`python -m tests.demo.parity`: greedy answers of our engine against transformers' own class, token for token, in float32 on the CPU.

Held-out cases of every skill. Ours are generated in batches; each token is then held against the one that transformers finds likeliest
behind the prompt and the tokens before it, which is what its greedy decoding would have said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ernie_backend.execution.model_runner import ModelRunner
from ernie_demo.encoder import Encoder, Example
from ernie_demo.mixture import SKILLS
from ernie_demo.weights import load
from ernie_demo_model import FOLDER

from ..execution.hand_scheduler import BLOCK_SIZE, HandScheduler, make_runner
from ..parity.vision_checkpoints import normalized

SEED = 31
MAX_TOKENS = 120
TOGETHER = 8
LONGEST = 640


@dataclass
class Compared:
    skill: str
    ours: list[int]
    theirs: list[int]


def cpu_runner(folder: Path) -> ModelRunner:
    return make_runner(folder, num_blocks=TOGETHER * LONGEST // BLOCK_SIZE, max_model_len=LONGEST)


def compare(
    folder: Path, cases_per_skill: int, show: bool = False, runner_for: Callable[[Path], ModelRunner] = cpu_runner
) -> list[Compared]:
    """One for each case: what we say, and what transformers says at the same places. `runner_for` makes one that has room for TOGETHER
    sequences of LONGEST tokens."""
    torch.set_num_threads(1)  # small products: threads that wait for each other take longer than the work
    encoder = Encoder(folder)
    model = load(folder, torch.float32).eval()
    examples = [
        (name, encoder.encode(case)) for name, skill in SKILLS.items() for case in skill.module.held_out_cases(SEED, cases_per_skill)
    ]
    found = []
    for start in tqdm(range(0, len(examples), TOGETHER), desc="Comparing", disable=not show):
        some = examples[start : start + TOGETHER]
        prompts = [example.token_ids[: example.prompt_len] for _, example in some]
        hand = HandScheduler(runner_for(folder), prompts, media=[example.media for _, example in some])
        answers = generated(hand, encoder.config.eos_token_ids)
        for (name, example), answer in zip(some, answers, strict=True):
            found.append(Compared(name, answer, their_choices(model, example, answer)))
    return found


def generated(hand: HandScheduler, ends: Sequence[int]) -> list[list[int]]:
    """What we say, each up to its end token."""
    numbers = range(len(hand.prompts))
    while running := [i for i in numbers if not set(ends) & set(hand.outputs(i)) and len(hand.outputs(i)) < MAX_TOKENS]:
        hand.step(dict.fromkeys(running, LONGEST))
    return [hand.outputs(i) for i in numbers]


@torch.no_grad()
def their_choices(model: torch.nn.Module, example: Example, answer: list[int]) -> list[int]:
    """The likeliest token at each place of `answer`, by transformers' unchanged forward.

    Positions are given: behind a video, transformers' own differ from those of Paddle's stacks.
    """
    ids = torch.tensor([example.token_ids[: example.prompt_len] + answer])
    following = example.positions[0, example.prompt_len - 1] + 1 + np.arange(len(answer))
    positions = np.concatenate([example.positions[:, : example.prompt_len], np.broadcast_to(following, (3, len(answer)))], axis=1)
    experts = np.concatenate([example.is_visual[: example.prompt_len], np.zeros(len(answer), bool)])
    inner = model.model
    embeddings = inner.language_model.embed_tokens(ids)
    for item in example.media:
        grids = torch.tensor([item.grid])
        rows = inner.resampler_model(inner.vision_tower(normalized(item), grids).last_hidden_state, grids)
        embeddings[0, item.start : item.start + item.num_tokens] = rows
    hidden = inner.language_model(
        inputs_embeds=embeddings,
        position_ids=torch.from_numpy(positions.astype(np.int64))[:, None],
        moe_mm_token_type_ids=torch.from_numpy(experts.astype(np.int32))[None],
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[0, example.prompt_len - 1 : -1]).argmax(-1).tolist()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo.parity", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--cases", type=int, default=25, help="of each skill (default: 25)")
    args = parser.parse_args()
    found = compare(args.model, args.cases, show=True)
    wrong = [one for one in found if one.ours != one.theirs]
    for one in wrong:
        print(f"{one.skill}: ours {one.ours}\n  theirs {one.theirs}")
    print(f"{len(found) - len(wrong)} of {len(found)} answers equal, {sum(len(one.ours) for one in found)} tokens")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
