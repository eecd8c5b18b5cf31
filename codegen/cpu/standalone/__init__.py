"""The standalone library: what a C program calls, and what the generated unit tells it."""
