"""A seeded procedural world: clips with a caption and the whole truth about them."""
