"""Pinned releases of other code bases, one module each: RECIPES by our names of the methods."""
