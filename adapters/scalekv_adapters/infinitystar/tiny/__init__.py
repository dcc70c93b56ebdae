"""What star-tiny is made of: a small InfinityStar for coloured shapes that move. Its weights are not trained yet, so no model has
this name; how it is trained is in adapters/recipes/star_tiny."""
