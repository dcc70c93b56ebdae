"""HART: text to images of 1024 x 1024 by a hybrid of discrete maps and a residual diffusion (Tang et al., 2024)."""
