"""What the command line does when nothing is said. The only place in core where a model or a policy has a name."""

from __future__ import annotations

MODEL = "var-tiny"
POLICY = "scalekv"
OUT = "scalekv-out"
PROFILE = "profile.safetensors"
QUERIES = 64
EVERY = "all"
"""As a policy: every installed one that spends a budget and can be run."""
AMPLIFY = 4
"""How much the difference on a sheet is amplified."""
