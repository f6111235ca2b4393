"""What a run is: its configuration, how its parts come together, its folder, and it read back."""
