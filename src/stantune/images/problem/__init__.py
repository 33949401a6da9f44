"""Problems of images: what they are, which are built in, and what each of their fields may be."""
