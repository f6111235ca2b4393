"""Functions of a connection: what is written to a database, and what is read of it.

Judgements are never changed: an edit is a new row that supersedes the one before, and what is taken
back is superseded by a row without a payload. Times come from the caller's clock.
"""
