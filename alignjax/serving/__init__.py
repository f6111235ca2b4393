"""A model behind a server: the engine of slots, the interface of guards, the HTTP surface."""
