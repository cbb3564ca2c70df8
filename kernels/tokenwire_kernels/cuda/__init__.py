"""Operators in CUDA C++, where Triton leaves bandwidth unused: compiled on the machine by NVRTC, which every
PyTorch for CUDA brings along, and kept on disk. Without it, Triton's kernels serve."""
