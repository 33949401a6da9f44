"""Studies: problems × ways of training × seeds, each a search of its own, compared in pairs."""
