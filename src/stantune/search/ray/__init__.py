"""A search's trainings on a Ray cluster."""
