"""Compares compressed with unmodified generation: metrics, pictures, studies, and which tokens were kept."""
