"""A page to look at what each step wrote."""
