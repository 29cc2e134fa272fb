"""From answers to numbers, and how sure they are."""
