"""The search: what to run next, decided from the trial table alone, and where that table is kept."""
