"""A made-up world to learn in: an island, and the radar that looks at it."""
