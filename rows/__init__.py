"""A row and its picture: the notion that every room shares."""
