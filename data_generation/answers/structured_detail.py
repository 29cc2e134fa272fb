"""How much detail a structured answer must have."""

MIN_WORDS = 40  # of the description
MIN_CLAIMS = 2
MIN_QA = 2
