"""Tokenizers of open-weight models behind one interface, which our own tokenizer meets too."""
