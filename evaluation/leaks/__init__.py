"""Whether a training set holds what a benchmark asks: its pictures, its texts, and what is said of it beside a score."""
