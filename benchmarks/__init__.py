"""How fast losskit is, and how much memory it takes, beside others."""
