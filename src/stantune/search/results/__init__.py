"""What a search came to: summed up from its trial table, as `tune` returns it and as its JSON says it."""
