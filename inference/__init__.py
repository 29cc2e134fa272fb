"""A checkpoint and a question in, an answer out."""
