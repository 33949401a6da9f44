"""What the memo fill remembers, and what that may cost."""
