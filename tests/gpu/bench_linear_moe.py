"""Times linears, router and experts of 21B-A3B and 0.3B layers on a GPU: chains over the weights of many layers in one CUDA graph.

PYTHONPATH=kernels python tests/gpu/bench_linear_moe.py [--tokens 1,4,16,64,256] [--prefill 1024,8192]

Bytes are the weights that a step must read once: of the experts those that were chosen. The ratio is to the read bandwidth of the same run.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ernie_kernels.triton import combine, linear, moe_experts, moe_norm_router, moe_router

HIDDEN, INTERMEDIATE, NUM_EXPERTS, CHOICES, NUM_SHARED, QKV, ATTENTION = 2560, 1536, 64, 6, 2, 3584, 2560
SLOTS_PER_TOKEN = CHOICES + NUM_SHARED
NORM_EPS, NORM_MIN = 1e-5, 1e-12


def random(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="cuda").normal_(0, scale)


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype, device="cuda")


def microseconds(run: Callable[[], None], graph: bool = True, repeats: int = 15) -> float:
    """The median time of one run, by events; in a CUDA graph unless told otherwise."""
    run()
    torch.cuda.synchronize()
    call = run
    if graph:
        captured = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            captured.capture_begin()
            run()
            captured.capture_end()
        call = captured.replay
    times = []
    for _ in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times[2:])


def roofline() -> tuple[float, float, float]:
    """Copy and read bandwidth in TB/s, bfloat16 matmul in TFLOP/s."""
    a = torch.empty(1 << 30, dtype=torch.float32, device="cuda").normal_()
    b = torch.empty_like(a)
    copy, read = microseconds(lambda: b.copy_(a), False, 5), microseconds(lambda: a.sum(), False, 5)
    m = random(8192, 8192)
    product = microseconds(lambda: torch.mm(m, m.t()), False, 5)
    return 8 * a.numel() / copy / 1e6, 4 * a.numel() / read / 1e6, 2 * 8192**3 / product / 1e6


@dataclass
class Layers:
    """The weights of `count` mixture layers of 21B-A3B."""

    count: int

    def __post_init__(self) -> None:
        experts = NUM_EXPERTS + NUM_SHARED
        self.qkv = random(self.count, QKV, HIDDEN, scale=0.02)
        self.o = random(self.count, HIDDEN, ATTENTION, scale=0.02)
        self.gate = random(self.count, NUM_EXPERTS, HIDDEN, scale=0.02, dtype=torch.float32)
        self.bias = torch.zeros(NUM_EXPERTS, device="cuda")
        self.gate_up = random(self.count, experts, 2 * INTERMEDIATE, HIDDEN, scale=0.02)
        self.down = random(self.count, experts, HIDDEN, INTERMEDIATE, scale=0.02)
        self.norm = random(HIDDEN)


class Step:
    """The buffers of a step of `num_tokens` tokens, and its kernels layer by layer. Attention is left out: its output is a constant."""

    def __init__(self, layers: Layers, num_tokens: int) -> None:
        self.layers, self.num_tokens = layers, num_tokens
        self.x, self.residual, self.attention = random(num_tokens, HIDDEN), random(num_tokens, HIDDEN), random(num_tokens, ATTENTION)
        self.qkv_out, self.o_out = empty(num_tokens, QKV), empty(num_tokens, 1, HIDDEN)
        self.act = empty(num_tokens * SLOTS_PER_TOKEN, INTERMEDIATE)
        self.parts = random(num_tokens, SLOTS_PER_TOKEN, HIDDEN)
        floats, ints = moe_router.workspace_sizes(num_tokens, NUM_EXPERTS, HIDDEN)
        self.workspace = moe_router.Workspace(empty(floats, dtype=torch.float32), empty(ints, dtype=torch.int32))
        self.weights = empty(num_tokens, CHOICES, dtype=torch.float32)
        tile = moe_experts.plan_tile(num_tokens, NUM_EXPERTS, CHOICES)
        self.routings = []
        for _ in range(layers.count):  # one each, so that the chosen experts can be counted afterwards
            ids, plan = empty(num_tokens, CHOICES, dtype=torch.int32), None
            if tile:
                most = moe_router.max_tiles(num_tokens, CHOICES, NUM_EXPERTS, tile)
                plan = moe_router.ExpertPlan(tile, *(empty(n, dtype=torch.int32) for n in (most * tile, most, 1)))
            self.routings.append(moe_experts.Routing(ids, plan, NUM_SHARED))
        for i in range(layers.count):
            self.route(i)
            self.sort(i)

    def attention_norm(self, i: int) -> None:
        combine.combine_add_rms_norm(self.parts, self.weights, self.residual, self.layers.norm, NORM_EPS, self.x)

    def qkv(self, i: int) -> None:
        linear.linear(self.x, self.layers.qkv[i], self.qkv_out)

    def o(self, i: int) -> None:
        linear.linear(self.attention, self.layers.o[i], self.o_out.view(self.num_tokens, HIDDEN))

    def expert_norm(self, i: int) -> None:
        combine.combine_add_rms_norm(self.o_out, None, self.residual, self.layers.norm, NORM_EPS, self.x)

    def route(self, i: int) -> None:
        ids = self.routings[i].ids
        moe_router.route(self.x, self.layers.gate[i], self.layers.bias, CHOICES, NORM_MIN, self.weights, ids, self.workspace)

    def norm_and_route(self, i: int) -> None:
        """What `expert_norm` and `route` do."""
        if self.num_tokens > moe_norm_router.MAX_TOKENS:
            self.expert_norm(i)
            self.route(i)
            return
        gate, bias, norm, ids = self.layers.gate[i], self.layers.bias, self.layers.norm, self.routings[i].ids
        moe_norm_router.combine_norm_route(
            self.o_out, self.residual, norm, NORM_EPS, gate, bias, NORM_MIN, self.x, self.weights, ids, self.workspace
        )

    def sort(self, i: int) -> None:
        plan = self.routings[i].plan
        if plan:
            moe_router.sort_by_expert(self.routings[i].ids, NUM_EXPERTS, NUM_SHARED, plan)

    def gate_up(self, i: int) -> None:
        moe_experts.experts_gate_up(self.x, self.layers.gate_up[i], self.routings[i], self.act)

    def down(self, i: int) -> None:
        moe_experts.experts_down(self.act, self.layers.down[i], self.routings[i], self.parts)

    def experts_per_layer(self) -> float:
        return NUM_SHARED + sum(len(r.ids.unique()) for r in self.routings) / self.layers.count

    def chain(self, *kernels: Callable[[int], None]) -> float:
        """µs per layer of these kernels, one after the other for each layer."""

        def run() -> None:
            for i in range(self.layers.count):
                for kernel in kernels:
                    kernel(i)

        return microseconds(run) / self.layers.count


def line(name: str, us: float, nbytes: float, flops: float, read: float, peak: float) -> None:
    print(
        f"{name:34s} {us:9.2f} µs {nbytes / us / 1e6:6.2f} TB/s {nbytes / us / 1e6 / read:6.1%}"
        f" {flops / us / 1e6:7.0f} TF {flops / us / 1e6 / peak:6.1%}",
        flush=True,
    )


def bench_step(layers: Layers, num_tokens: int, read: float, peak: float) -> None:
    s = Step(layers, num_tokens)
    expert = 2.0 * HIDDEN * INTERMEDIATE  # bytes of a third of an expert
    slots = 2 * num_tokens * SLOTS_PER_TOKEN * HIDDEN * INTERMEDIATE
    dense = num_tokens <= linear.MAX_TOKENS
    all_kernels = [s.attention_norm, s.qkv, s.o, s.norm_and_route, s.sort, s.gate_up, s.down]
    if not dense:
        all_kernels = [s.attention_norm, s.route, s.sort, s.gate_up, s.down]
    whole = s.chain(*all_kernels)
    distinct = s.experts_per_layer()
    qkv_bytes, o_bytes = 2.0 * QKV * HIDDEN, 2.0 * HIDDEN * ATTENTION
    total_bytes = (qkv_bytes + o_bytes if dense else 0) + 4 * NUM_EXPERTS * HIDDEN + 3 * expert * distinct
    total_flops = 3.0 * slots + (2.0 * num_tokens * HIDDEN * (QKV + ATTENTION) if dense else 0)
    tag = f"T={num_tokens} "
    line(f"{tag}layer ({distinct:.1f} experts)", whole, total_bytes, total_flops, read, peak)
    if dense:
        line(f"{tag}qkv", s.chain(s.qkv), qkv_bytes, 2.0 * num_tokens * HIDDEN * QKV, read, peak)
        line(f"{tag}o", s.chain(s.o), o_bytes, 2.0 * num_tokens * HIDDEN * ATTENTION, read, peak)
    line(f"{tag}gate_up", s.chain(s.gate_up), 2 * expert * distinct, 2.0 * slots, read, peak)
    line(f"{tag}down", s.chain(s.down), expert * distinct, 1.0 * slots, read, peak)
    small = {"route": s.route, "norm and route": s.norm_and_route, "combine": s.attention_norm}
    if s.routings[0].plan:
        small["sort"] = s.sort
    print(f"{tag}µs: " + ", ".join(f"{name} {s.chain(kernel):.2f}" for name, kernel in small.items()), flush=True)


def bench_dense(name: str, n: int, k: int, count: int, tokens: list[int], read: float, peak: float, kind: str = "linear") -> None:
    """One weight shape of the 0.3B model, or a head, over `count` layers."""
    w = random(count, n, k, scale=0.02)
    for num_tokens in tokens:
        x = random(num_tokens, k)
        out = empty(num_tokens, n // 2 if kind == "silu" else n, dtype=torch.float32 if kind == "head" else torch.bfloat16)
        launch = linear.gate_up_silu if kind == "silu" else linear.linear

        def run(x=x, out=out, launch=launch) -> None:  # type: ignore[no-untyped-def]
            for i in range(count):
                launch(x, w[i], out)

        line(f"T={num_tokens} {name} {n}x{k}", microseconds(run) / count, 2.0 * n * k, 2.0 * num_tokens * n * k, read, peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", default="1,2,4,8,16,32,64,128,256,512", help="decode batch sizes")
    parser.add_argument("--prefill", default="1024,2048,4096,8192,16384", help="tokens of a prefill step; empty: none")
    parser.add_argument("--layers", type=int, default=28)
    arguments = parser.parse_args()
    tokens = [int(t) for t in arguments.tokens.split(",") if t]
    copy, read, peak = roofline()
    print(f"{torch.cuda.get_device_name()}: copy {copy:.2f} TB/s, read {read:.2f} TB/s, bfloat16 matmul {peak:.0f} TFLOP/s")
    layers = Layers(arguments.layers)
    for num_tokens in [*tokens, *(int(t) for t in arguments.prefill.split(",") if t)]:
        bench_step(layers, num_tokens, read, peak)
    del layers
    bench_dense("head 21B", 103424, 2560, 2, tokens, read, peak, "head")
    bench_dense("head 0.3B", 103424, 1024, 3, tokens, read, peak, "head")
    bench_dense("qkv 0.3B", 2560, 1024, 100, tokens, read, peak)
    bench_dense("o 0.3B", 1024, 2048, 100, tokens, read, peak)
    bench_dense("gate_up 0.3B", 6144, 1024, 50, tokens, read, peak, "silu")
    bench_dense("down 0.3B", 1024, 3072, 80, tokens, read, peak)


if __name__ == "__main__":
    main()
