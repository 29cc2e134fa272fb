"""Several sources of rows to one training set, and its card."""
