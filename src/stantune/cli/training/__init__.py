"""Commands that train: searches, studies, comparisons, single trainings."""
