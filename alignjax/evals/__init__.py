"""What a trained model is worth: every number with its standard error."""
