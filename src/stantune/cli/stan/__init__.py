"""Commands that show what STAN does in a network."""
