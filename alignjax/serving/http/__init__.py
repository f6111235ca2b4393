"""The engine behind HTTP, in the form of OpenAI's interface."""
