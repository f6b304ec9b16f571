"""ERNIE's operators in the Triton language: @triton.jit kernels beside their launchers; knows no model and no framework."""
