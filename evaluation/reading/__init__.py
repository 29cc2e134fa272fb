"""Answers and official files, as they lie on disk."""
