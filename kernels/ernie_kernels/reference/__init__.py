"""The maths of every operator, on the device-tensor surface: the kernels' oracle and their specification; knows no speed."""
