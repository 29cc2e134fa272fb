"""Answers in, scores out. Empty until the benchmarks of the papers come."""
