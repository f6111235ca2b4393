"""Red teaming of one's own models: attacks as pure steps, transforms, measured success."""
