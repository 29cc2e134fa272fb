"""Rows laid end to end, without padding and without seeing one another.

lengths of prepared rows ──> planning: packs of rows ──> pieces: where each row lies ──> attention: each sees its own
"""
