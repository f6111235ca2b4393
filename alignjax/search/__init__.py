"""Many answers to a prompt, and one chosen: best-of-n, votes, beams guided step by step."""
