"""IFEval: instructions whose fulfilment a rule can check."""
