"""ERNIE's operators on tensors: references, CPU kernels and the device-tensor surface; knows no requests, no text and no server."""
