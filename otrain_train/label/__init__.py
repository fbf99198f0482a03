"""The page on which a person sorts candidates by eye, and the server behind it."""
