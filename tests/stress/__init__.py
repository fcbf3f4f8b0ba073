"""Long random runs against plain models, and whatever needs a process of its own to go wrong in."""
