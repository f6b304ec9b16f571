"""The two inner loops of the CPU kernels, small tiles of products in explicit 16-lane vectors; knows no operator.

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
_KEYS_AHEAD = 8
"""How far values are prefetched: decoding over 8 × 1024 cached tokens 29 GB/s without, 30 at 4, 36 at 8."""
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
    next_tile = builder.mul(args[5], ir.Constant(args[5].type, columns))

    def accumulate(load: Any, start: Any) -> None:
        # The next rows of w are fetched while these are computed: [8, 1024] × the 0.3B head 11 → 5.3 ms; near all caches (3) beat far (1).
        for row in w_rows:
            _prefetch(builder, builder.gep(row, [builder.add(start, next_tile)]))
        w_vectors = [_widen(builder, load(builder.gep(row, [start]), w_type.dtype)) for row in w_rows]
        for r, row in enumerate(x_rows):
            x_vector = load(builder.gep(row, [start]), types.float32)
            for c, w_vector in enumerate(w_vectors):
                cell = sums[r * columns + c]
                builder.store(builder.call(_fma(builder), [x_vector, w_vector, builder.load(cell)]), cell)

    whole = builder.and_(depth, ir.Constant(depth.type, -LANES))
    with cgutils.for_range_slice(builder, ir.Constant(depth.type, 0), whole, ir.Constant(depth.type, LANES), depth.type) as (start, _):
        accumulate(lambda pointer, dtype: _load(builder, pointer, dtype), start)
    left = builder.sub(depth, whole)
    with builder.if_then(builder.icmp_signed(">", left, ir.Constant(left.type, 0)), likely=False):
        mask = _first_lanes(builder, left)
        accumulate(lambda pointer, dtype: _load_masked(builder, pointer, dtype, mask), whole)
    totals = _lane_sums(builder, [builder.load(cell) for cell in sums])
    for r, row in enumerate(_row_pointers(builder, out, args[8], args[9], rows)):
        lanes = ir.Constant(ir.VectorType(_I32, columns), list(range(r * columns, (r + 1) * columns)))
        part = builder.shuffle_vector(totals, totals, lanes)
        builder.store(part, builder.bitcast(row, part.type.as_pointer()), align=4)
    return context.get_dummy_value()


def _type_add_weighted_rows(typingctx, p, p_start, p_step, v, v_start, v_step, count, out, out_start, out_step, width, rows, vectors):
    """out[r, i] += Σ_j p[r, j] · v[j, i] for r < rows, i < min(width, 16 · vectors), j < count, in the order of j.

    Row r of an array begins at element `start + r · step` of its memory, and its elements are neighbours; all float32. rows and vectors are
    literals, rows · vectors ≤ 16. A width below 16 · vectors is for vectors = 1 only.
    """
    signature = types.void(p, p_start, p_step, v, v_start, v_step, count, out, out_start, out_step, width, rows, vectors)
    return signature, _emit_add_weighted_rows


add_weighted_rows: Any = intrinsic(prefer_literal=True)(_type_add_weighted_rows)


def _emit_add_weighted_rows(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    rows, vectors = signature.args[11].literal_value, signature.args[12].literal_value
    p, v, out = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 7))
    count, width = args[6], args[10]
    p_rows = _row_pointers(builder, p, args[1], args[2], rows)
    out_rows = _row_pointers(builder, out, args[8], args[9], rows)
    first_v = builder.gep(v, [args[4]])

    def accumulate(load: Any, store: Any) -> None:
        cells = [[_at(builder, row, n * LANES) for n in range(vectors)] for row in out_rows]
        sums = [[cgutils.alloca_once_value(builder, load(cell)) for cell in row] for row in cells]
        with cgutils.for_range(builder, count, intp=count.type) as loop:
            row_v = builder.gep(first_v, [builder.mul(loop.index, args[5])])
            ahead = builder.gep(row_v, [builder.mul(args[5], ir.Constant(args[5].type, _KEYS_AHEAD))])
            for n in range(vectors):
                _prefetch(builder, _at(builder, ahead, n * LANES))
            values = [load(_at(builder, row_v, n * LANES)) for n in range(vectors)]
            for r in range(rows):
                weight = _splat(builder, builder.load(builder.gep(p_rows[r], [loop.index])))
                for value, cell in zip(values, sums[r], strict=True):
                    builder.store(builder.call(_fma(builder), [weight, value, builder.load(cell)]), cell)
        for r in range(rows):
            for target, cell in zip(cells[r], sums[r], strict=True):
                store(builder.load(cell), target)

    with builder.if_else(builder.icmp_signed(">=", width, ir.Constant(width.type, LANES * vectors)), likely=True) as (full, narrow):
        with full:
            accumulate(
                lambda pointer: _load(builder, pointer, types.float32),
                lambda vector, pointer: builder.store(vector, builder.bitcast(pointer, _VECTOR.as_pointer()), align=4),
            )
        with narrow:
            if vectors == 1:
                mask = _first_lanes(builder, width)
                accumulate(
                    lambda pointer: _load_masked(builder, pointer, types.float32, mask),
                    lambda vector, pointer: _store_masked(builder, vector, pointer, mask),
                )
    return context.get_dummy_value()


def _at(builder: Any, pointer: Any, offset: int) -> Any:
    return builder.gep(pointer, [ir.Constant(_I32, offset)])


def _prefetch(builder: Any, pointer: Any) -> None:
    """Asks for a cache line that a later tile reads; an address behind the array does no harm."""
    function_type = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    prefetch = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    builder.call(prefetch, [pointer, *(ir.Constant(_I32, n) for n in (0, 3, 1))])  # to read, near all caches, data


def _fma(builder: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fma.v{LANES}f32")


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


def _store_masked(builder: Any, vector: Any, pointer: Any, mask: Any) -> None:
    function_type = ir.FunctionType(ir.VoidType(), [_VECTOR, _VECTOR.as_pointer(), _I32, mask.type])
    store = cgutils.get_or_insert_function(builder.module, function_type, f"llvm.masked.store.v{LANES}f32.p0")
    builder.call(store, [vector, builder.bitcast(pointer, _VECTOR.as_pointer()), ir.Constant(_I32, 4), mask])


def _widen(builder: Any, vector: Any) -> Any:
    """bfloat16 bits → float32: the upper half of the word."""
    if vector.type.element is _FLOAT:
        return vector
    words = ir.VectorType(_I32, LANES)
    return builder.bitcast(builder.shl(builder.zext(vector, words), ir.Constant(words, [16] * LANES)), _VECTOR)


def _first_lanes(builder: Any, count: Any) -> Any:
    """A mask of the lanes below `count`."""
    lanes = ir.VectorType(_I32, LANES)
    return builder.icmp_signed("<", ir.Constant(lanes, list(range(LANES))), _splat(builder, builder.trunc(count, _I32)))


def _splat(builder: Any, scalar: Any) -> Any:
    """A vector whose every lane is `scalar`."""
    lanes = ir.VectorType(scalar.type, LANES)
    single = builder.insert_element(ir.Constant(lanes, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, ir.Constant(lanes, ir.Undefined), ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES))


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
