"""InfinityStar: text and images to clips, frame by frame of maps that grow."""
