"""CPU kernels, compiled by numba: for each operator that needs speed the same name as its reference; knows no layer and no request."""
