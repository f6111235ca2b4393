"""From pretraining to the report: stages that start from one another's checkpoints."""
