"""How good a setting whole searches find, and how fast, beside Optuna's."""
