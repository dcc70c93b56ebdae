"""The memory of a whole run: estimates, dry runs, suggestions, and the meter that measures it."""
