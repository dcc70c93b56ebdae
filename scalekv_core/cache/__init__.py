"""The KV cache of one image: attention, eviction, folding, storing."""
