"""The one inner loop of the CPU kernels: a small tile of dot products in explicit 16-lane vectors; knows no operator.

Written as LLVM instructions because a loop left to the vectoriser sums in an order that depends on the shape of the tile. Here each
element's order is fixed (16 lanes over the depth by fused multiply-add, then neighbours by neighbours), so a row's result does not depend
on which rows are computed beside it: batched equals alone, to the last bit.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compile import kernel

LANES = 16
_I32, _FLOAT = ir.IntType(32), ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_EVEN = ir.Constant(ir.VectorType(_I32, LANES), list(range(0, 2 * LANES, 2)))
_ODD = ir.Constant(ir.VectorType(_I32, LANES), list(range(1, 2 * LANES, 2)))


def _type_dot_tile(typingctx, x, x_start, x_step, w, w_start, w_step, depth, out, out_start, out_step, rows, columns):
    """out[r, c] = Σ_i x[r, i] · w[c, i] for r < rows, c < columns (literals, rows · columns ≤ 16), i < depth.

    Row r of an array begins at element `start + r · step` of its memory, and its elements are neighbours. x, out float32; w float32, or
    uint16 holding bfloat16 bits, which are widened in registers.
    """
    signature = types.void(x, x_start, x_step, w, w_start, w_step, depth, out, out_start, out_step, rows, columns)
    return signature, _emit_dot_tile


dot_tile: Any = intrinsic(prefer_literal=True)(_type_dot_tile)


def _emit_dot_tile(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x_type, w_type, out_type = signature.args[0], signature.args[3], signature.args[7]
    rows, columns = signature.args[10].literal_value, signature.args[11].literal_value
    x, w, out = (context.make_array(t)(context, builder, args[i]).data for t, i in ((x_type, 0), (w_type, 3), (out_type, 7)))
    depth = args[6]
    x_rows = _row_pointers(builder, x, args[1], args[2], rows)
    w_rows = _row_pointers(builder, w, args[4], args[5], columns)
    sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, [0.0] * LANES)) for _ in range(rows * columns)]
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32")

    prefetch = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [w.type, _I32, _I32, _I32]), "llvm.prefetch.p0"
    )
    next_tile = builder.mul(args[5], ir.Constant(args[5].type, columns))

    def accumulate(load: Any, start: Any) -> None:
        # The next rows of w are fetched while these are computed: [8, 1024] × the 0.3B head 11 → 5.3 ms; near all caches (3) beat far (1).
        for row in w_rows:
            ahead = builder.gep(row, [builder.add(start, next_tile)])
            builder.call(prefetch, [ahead, *(ir.Constant(_I32, n) for n in (0, 3, 1))])
        w_vectors = [_widen(builder, load(builder.gep(row, [start]), w_type.dtype)) for row in w_rows]
        for r, row in enumerate(x_rows):
            x_vector = load(builder.gep(row, [start]), types.float32)
            for c, w_vector in enumerate(w_vectors):
                cell = sums[r * columns + c]
                builder.store(builder.call(fma, [x_vector, w_vector, builder.load(cell)]), cell)

    whole = builder.and_(depth, ir.Constant(depth.type, -LANES))
    with cgutils.for_range_slice(builder, ir.Constant(depth.type, 0), whole, ir.Constant(depth.type, LANES), depth.type) as (start, _):
        accumulate(lambda pointer, dtype: _load(builder, pointer, dtype), start)
    left = builder.sub(depth, whole)
    with builder.if_then(builder.icmp_signed(">", left, ir.Constant(left.type, 0)), likely=False):
        mask = _first_lanes(builder, left)
        accumulate(lambda pointer, dtype: _load_masked(builder, pointer, dtype, mask), whole)
    totals = _lane_sums(builder, [builder.load(cell) for cell in sums])
    for r, row in enumerate(_row_pointers(builder, out, args[8], args[9], rows)):
        for c in range(columns):
            total = builder.extract_element(totals, ir.Constant(_I32, r * columns + c))
            builder.store(total, builder.gep(row, [ir.Constant(depth.type, c)]))
    return context.get_dummy_value()


def _row_pointers(builder: Any, data: Any, start: Any, step: Any, count: int) -> list[Any]:
    first = builder.gep(data, [start])
    return [builder.gep(first, [builder.mul(step, ir.Constant(step.type, r))]) for r in range(count)]


def _lane_type(dtype: Any) -> Any:
    return ir.IntType(16) if dtype == types.uint16 else _FLOAT


def _load(builder: Any, pointer: Any, dtype: Any) -> Any:
    vector = ir.VectorType(_lane_type(dtype), LANES)
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=dtype.bitwidth // 8)


def _load_masked(builder: Any, pointer: Any, dtype: Any, mask: Any) -> Any:
    """The lanes that `mask` names; 0 in the others, whose memory is not touched."""
    lane = _lane_type(dtype)
    vector = ir.VectorType(lane, LANES)
    name = f"llvm.masked.load.v{LANES}{'f32' if lane is _FLOAT else 'i16'}.p0"
    function_type = ir.FunctionType(vector, [vector.as_pointer(), _I32, mask.type, vector])
    load = cgutils.get_or_insert_function(builder.module, function_type, name)
    zero = ir.Constant(vector, [0.0 if lane is _FLOAT else 0] * LANES)
    return builder.call(load, [builder.bitcast(pointer, vector.as_pointer()), ir.Constant(_I32, dtype.bitwidth // 8), mask, zero])


def _widen(builder: Any, vector: Any) -> Any:
    """bfloat16 bits → float32: the upper half of the word."""
    if vector.type.element is _FLOAT:
        return vector
    words = ir.VectorType(_I32, LANES)
    return builder.bitcast(builder.shl(builder.zext(vector, words), ir.Constant(words, [16] * LANES)), _VECTOR)


def _first_lanes(builder: Any, count: Any) -> Any:
    """A mask of the lanes below `count`."""
    lanes = ir.VectorType(_I32, LANES)
    single = builder.insert_element(ir.Constant(lanes, ir.Undefined), builder.trunc(count, _I32), ir.Constant(_I32, 0))
    splat = builder.shuffle_vector(single, ir.Constant(lanes, ir.Undefined), ir.Constant(lanes, [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(LANES))), splat)


def _lane_sums(builder: Any, vectors: list[Any]) -> Any:
    """One vector whose lane i is the sum of vector i's lanes: four rounds that add neighbours and lay two vectors' halves side by side."""
    for _ in range(4):
        pairs = [(vectors[i], vectors[min(i + 1, len(vectors) - 1)]) for i in range(0, len(vectors), 2)]
        vectors = [builder.fadd(builder.shuffle_vector(a, b, _EVEN), builder.shuffle_vector(a, b, _ODD)) for a, b in pairs]
    return vectors[0]


@kernel()
def dot_rows(x, x_start, x_step, w, w_start, w_step, depth, out, out_start, out_step, rows, columns):
    """`dot_tile` for any rows ≤ 4 and any columns."""
    whole = columns // 4 * 4
    for c in range(0, whole, 4):
        w_at, out_at = w_start + c * w_step, out_start + c
        if rows == 4:
            dot_tile(x, x_start, x_step, w, w_at, w_step, depth, out, out_at, out_step, 4, 4)
        else:
            for r in range(rows):
                dot_tile(x, x_start + r * x_step, x_step, w, w_at, w_step, depth, out, out_at + r * out_step, out_step, 1, 4)
    for c in range(whole, columns):
        for r in range(rows):
            x_at, out_at = x_start + r * x_step, out_start + r * out_step + c
            dot_tile(x, x_at, x_step, w, w_start + c * w_step, w_step, depth, out, out_at, out_step, 1, 1)
