"""Image models by name: what is known of one before it is loaded, how it generates, how its weights are read."""
