"""The CPU target: kernels as C++ headers, a printer of thin units that call them, a builder."""
