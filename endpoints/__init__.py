"""Asking a language model over HTTP: messages, limits, prices, and a journal of what was answered."""
