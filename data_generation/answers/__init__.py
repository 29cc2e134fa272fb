"""A teacher's answers, read strictly."""
