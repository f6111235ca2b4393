"""Text in, ids and masks out: templates, chat, tokenizers. Imports nothing of ours but core."""
