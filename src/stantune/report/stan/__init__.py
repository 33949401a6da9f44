"""What STAN does in a network, in numbers, in text and in pictures."""
