"""Meshes and the one table that places logical axes on them."""
