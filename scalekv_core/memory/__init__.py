"""What a whole run will take: estimates, dry runs, suggestions, and the meter that measures it."""
