"""The KV cache of one image: attention, eviction, folding and storage."""
