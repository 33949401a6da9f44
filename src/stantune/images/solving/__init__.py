"""How networks of image problems are trained and measured."""
