"""One file an algorithm: a config, two closures over the model, nothing else."""
