"""Unmodified against compressed: metrics, pictures, and what was kept where."""
