"""Judgements by people, models and rules: kept, compared, joined, and made rows of data."""
