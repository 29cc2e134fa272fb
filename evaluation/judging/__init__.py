"""A judge reviews answers."""
