"""Several trainings in one process: their turns, their random states, their memory."""
