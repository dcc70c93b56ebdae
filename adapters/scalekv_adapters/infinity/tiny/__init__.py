"""infinity-tiny: a small Infinity that draws coloured shapes from captions.

What it learns from is made by a seeded generator in this folder (`captions`, `drawings`), and whether a picture shows what
its caption says is told without any learned part (`judge`).
"""
