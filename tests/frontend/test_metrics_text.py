"""Triton's text gets its histograms back, and loses nothing."""

from __future__ import annotations

from ernie_openai.metrics_text import with_histograms

TRITON = """# HELP nv_inference_count Number
# TYPE nv_inference_count counter
nv_inference_count{model="ernie",version="1"} 3
# HELP fastdeploy:a_seconds_bucket How long
# TYPE fastdeploy:a_seconds_bucket counter
fastdeploy:a_seconds_bucket{le="+Inf"} 9
fastdeploy:a_seconds_bucket{le="10"} 8
fastdeploy:a_seconds_bucket{le="0.5"} 4
# HELP ernie_request_count Not part of a histogram
# TYPE ernie_request_count gauge
ernie_request_count 2
# HELP fastdeploy:a_seconds_sum How long
# TYPE fastdeploy:a_seconds_sum counter
fastdeploy:a_seconds_sum 31.5
# HELP fastdeploy:a_seconds_count How long
# TYPE fastdeploy:a_seconds_count counter
fastdeploy:a_seconds_count 9
"""


def test_buckets_stand_together_in_the_order_of_their_bounds() -> None:
    lines = with_histograms(TRITON).splitlines()
    at = lines.index("# TYPE fastdeploy:a_seconds histogram")
    assert lines[at - 1] == "# HELP fastdeploy:a_seconds How long"
    assert lines[at + 1 : at + 6] == [
        'fastdeploy:a_seconds_bucket{le="0.5"} 4',
        'fastdeploy:a_seconds_bucket{le="10"} 8',
        'fastdeploy:a_seconds_bucket{le="+Inf"} 9',
        "fastdeploy:a_seconds_sum 31.5",
        "fastdeploy:a_seconds_count 9",
    ]
    assert lines[:6] == [*TRITON.splitlines()[:3], *TRITON.splitlines()[8:11]]
    assert len(lines) == 3 + 3 + 7


def test_text_without_histograms_stays() -> None:
    assert with_histograms("nv_a 1\n") == "nv_a 1\n"
