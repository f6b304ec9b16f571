"""`python -m ernie_demo.train`: trains the demo model in pieces that go on where the last one ended, and writes it as a checkpoint.

The rate of learning follows the time that was planned, not the number of steps: up, level, and in the last third down to nothing. So the
pieces of a plan add up, on whatever machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional
from tqdm import tqdm

from ernie_backend.config import ModelConfig

from .encoder import Encoder
from .folder import write_folder
from .loader import held_out_batches, training_batches
from .mixture import SKILLS
from .model import Batch, Demo, build, their_config, trainable
from .optimizer import Optimizer
from .weights import export, load

PEAK_RATE = 2e-3
WARM_UP, DECAY = 0.02, 0.35
"""Shares of the planned time in which the rate rises and falls."""
BIAS_STEP = 1e-3
"""By which a router's bias moves at each step towards experts that serve fewer tokens than the mean."""
HELD_OUT_CASES = 100
"""Of each skill, for the look at the end of a piece."""
_TELL_EVERY_SECONDS = 20


@dataclass
class Progress:
    """What a run has behind it."""

    steps: int = 0
    seconds: float = 0.0
    examples: int = 0


def rate_at(share: float) -> float:
    """Of the peak, when `share` of the planned time has passed."""
    return max(0.0, min(share / WARM_UP, 1.0, (1.0 - share) / DECAY))


class Trainer:
    """One run on one device."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args = args
        self._folder = folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        if args.start is not None:
            model = load(args.start, self._dtype)
        else:
            flat = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            model = build(their_config(ModelConfig.from_folder(folder), flat), self._dtype, args.seed)
        if self.device.type == "cuda":
            model.set_experts_implementation("grouped_mm")
        self.demo = Demo(model, self.device)
        self.optimizer = Optimizer(trainable(model))
        self.progress = Progress()
        self._losses = torch.zeros(len(SKILLS), 3, device=self.device)
        """By skill: sum of losses, tokens found right, tokens."""
        self._waited = 0.0

    # steps -------------------------------------------------------------------------------------------------------------------

    def step(self, batch: Batch) -> torch.Tensor:
        """Learns one batch; returns the norm of the gradients."""
        self.demo.model.train()
        output = self.demo.forward(batch)
        losses = functional.cross_entropy(output.logits.float(), batch["labels"], reduction="none")
        losses.mean().backward()
        self._note(batch, losses.detach(), output.logits.detach())
        norm = self.optimizer.step(self._args.rate * rate_at(self.progress.seconds / (60 * self._args.plan_minutes)))
        with torch.no_grad():
            for router, counts in zip(self.demo.routers, output.expert_counts, strict=True):
                router.moe_statics.e_score_correction_bias += BIAS_STEP * torch.sign(counts.mean() - counts)
        self.progress.steps += 1
        return norm

    def _note(self, batch: Batch, losses: torch.Tensor, logits: torch.Tensor) -> None:
        right = (logits.argmax(-1) == batch["labels"]).float()
        self._losses.index_add_(0, batch["label_skills"], torch.stack([losses, right, torch.ones_like(right)], dim=1))

    def run(self, seconds: float, max_steps: int | None) -> None:
        """Until the time is over, counted from now; what precedes the first batch is not learning time, but is counted all the same."""
        args = self._args
        source = training_batches(self._folder, args.rows, args.workers, args.seed + self.progress.steps + 1, self.device.type == "cuda")
        start, before = time.monotonic(), self.progress.seconds
        told, tokens, first_step, examples = start, 0, self.progress.steps, 0
        with tqdm(
            total=round(seconds), unit="s", desc="Training", bar_format="{desc} {percentage:3.0f}% {bar} {n:.0f}/{total} s {postfix}"
        ) as bar:
            for batch in self._moved(source):
                self.step(batch)
                examples += int(batch["num_examples_here"])
                tokens += batch["ids"].numel()
                now = time.monotonic()
                self.progress.seconds = before + now - start
                bar.set_postfix_str(f"step {self.progress.steps}", refresh=False)
                bar.update(min(round(now - start), bar.total) - bar.n)
                is_last = now - start >= seconds or (max_steps is not None and self.progress.steps - first_step >= max_steps)
                if now - told >= _TELL_EVERY_SECONDS or is_last:
                    tqdm.write(self._told(now - start, examples, tokens))
                    told = now
                if is_last:
                    break
        self.progress.examples += examples

    def _moved(self, source: Iterator[Batch]) -> Iterator[Batch]:
        """On the device, the next one on its way while this one is learnt."""
        while True:
            asked = time.monotonic()
            batch = next(source)
            self._waited += time.monotonic() - asked
            count = batch.pop("num_examples")
            moved = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            yield {**moved, "num_examples_here": count}

    def _told(self, seconds: float, examples: int, tokens: int) -> str:
        sums = self._losses.cpu().clone()
        self._losses.zero_()
        each = ", ".join(
            f"{name} {loss / n:.3f} ({100 * right / n:.0f} %)" for name, (loss, right, n) in zip(SKILLS, sums.tolist(), strict=True) if n
        )
        memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if self.device.type == "cuda" else ""
        return (
            f"{seconds:.0f} s, step {self.progress.steps}: loss {float(sums[:, 0].sum() / sums[:, 2].sum()):.3f}; {each}; "
            f"{examples / seconds:.0f} examples/s, {tokens / seconds:.0f} tokens/s, waited {100 * self._waited / seconds:.0f} %{memory}"
        )

    # what was learnt ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def held_out(self, cases_per_skill: int) -> dict[str, tuple[float, float]]:
        """Skill → (share of held-out answers whose every token is the likeliest one, share of such tokens).

        The first is what greedy decoding gets right to the letter."""
        self.demo.model.eval()
        answers = torch.zeros(len(SKILLS), 2)
        tokens = torch.zeros(len(SKILLS), 2)
        for batch in held_out_batches(Encoder(self._folder), 1, cases_per_skill, self._args.rows):
            moved = {name: tensor.to(self.device) for name, tensor in batch.items()}
            right = (self.demo.forward(moved).logits.argmax(-1) == moved["labels"]).float().cpu()
            skills, cases = batch["label_skills"], batch["label_cases"]
            count = int(batch["num_examples"])
            whole = torch.ones(count).scatter_reduce_(0, cases, right, "amin")
            skill_of = torch.zeros(count, dtype=torch.long).scatter_(0, cases, skills)
            answers.index_add_(0, skill_of, torch.stack([whole, torch.ones(count)], dim=1))
            tokens.index_add_(0, skills, torch.stack([right, torch.ones_like(right)], dim=1))
        shares = (answers[:, 0] / answers[:, 1]).tolist(), (tokens[:, 0] / tokens[:, 1]).tolist()
        return {name: (shares[0][i], shares[1][i]) for i, name in enumerate(SKILLS)}

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        biases = {f"bias {i}": router.moe_statics.e_score_correction_bias.data for i, router in enumerate(self.demo.routers)}
        temporary = path.with_suffix(".part")
        metadata = {name: repr(value) for name, value in vars(self.progress).items()}
        save_file({name: tensor.contiguous() for name, tensor in (self.optimizer.state() | biases).items()}, temporary, metadata)
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        with safe_open(path, "pt", device=str(self.device)) as file:
            given = file.metadata()
        state = load_file(path, str(self.device))
        self.progress = Progress(int(given["steps"]), float(given["seconds"]), int(given["examples"]))
        self.optimizer.load_state(state)
        for i, router in enumerate(self.demo.routers):
            router.moe_statics.e_score_correction_bias.data.copy_(state[f"bias {i}"])


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ernie_demo.train", description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write when the time is over")
    parser.add_argument("--state", type=Path, help="file of the training's state: gone on with if it is there, written at the end")
    parser.add_argument("--start", type=Path, help="a model folder whose weights are gone on with, where there is no state")
    parser.add_argument("--minutes", type=float, default=7.0, help="how long this piece takes (default: 7)")
    parser.add_argument("--plan-minutes", type=float, default=14.0, help="how long all pieces take together (default: 14)")
    parser.add_argument(
        "--rate", type=float, default=PEAK_RATE, help=f"of learning, at most (default: {PEAK_RATE:g}; a fifth to go on with --start)"
    )
    parser.add_argument("--rows", type=int, default=128, help="rows of 512 tokens in a step (default: 128)")
    parser.add_argument("--workers", type=int, default=15, help="processes that make data; 0: none (default: 15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="stop after so many steps, however much time is left")
    parser.add_argument(
        "--cases", type=int, default=HELD_OUT_CASES, help=f"held-out cases of each skill at the end (default: {HELD_OUT_CASES})"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float]]:
    args = parse(argv)
    torch.set_float32_matmul_precision("high")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_folder(folder)
        trainer = Trainer(args, folder)
        if args.state is not None and args.state.is_file():
            trainer.resume(args.state)
            print(f"Going on after {trainer.progress.seconds:.0f} s and {trainer.progress.steps} steps.")
        trainer.run(args.minutes * 60, args.steps)
        found = trainer.held_out(args.cases)
        export(trainer.demo.model, folder, args.out)
    for name, (answers, tokens) in found.items():
        print(f"held out: {name}: {100 * answers:.1f} % of answers, {100 * tokens:.2f} % of tokens")
    if args.state is not None:
        trainer.save(args.state)
    print(f"{args.out}: {trainer.progress.steps} steps, {trainer.progress.examples} examples, {trainer.progress.seconds:.0f} s")
    return found


if __name__ == "__main__":
    main()
