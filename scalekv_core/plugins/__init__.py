"""Plugins: the hooks they implement, and the registry that maps names to everything that they offer."""
