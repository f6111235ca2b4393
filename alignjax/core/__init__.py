"""Foundations that import jax only: pytrees, shape checks, weighted means, named random streams."""
