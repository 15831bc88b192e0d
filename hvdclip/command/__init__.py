"""What commands have in common: how they start ranks, how they end, what they read of their options."""
