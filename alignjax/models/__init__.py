"""Models as plain functions over pytrees. They know token ids, not text."""
