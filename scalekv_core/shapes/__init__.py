"""The arithmetic of maps and bytes: the schedule of an image, the shape of a cache."""
