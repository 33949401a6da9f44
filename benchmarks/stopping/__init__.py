"""Whether trials are judged and stopped rightly before their end."""
