"""Making images: a description becomes live for the length of a `with`."""
