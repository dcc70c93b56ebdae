"""From names to strategies: hooks, and the registry of everything that installed plugins offer."""
