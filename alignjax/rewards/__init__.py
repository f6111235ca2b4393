"""Where rewards come from: learned models and rules. All are (frozen, samples) -> [B]."""
