"""Triton from the same Program: kernels, printer, and what the compilers say of them."""
