"""What a search runs next and what its results amount to: pure functions of the trial table."""
