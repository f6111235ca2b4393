"""Plans: what a run needs and how fast the compiler says it is, from shapes alone."""
