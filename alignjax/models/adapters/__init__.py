"""Adapters: small trained parts over frozen weights, as Models that every algorithm can train."""
