"""The local web explorer: see a built dataset, what is not in it, and review its label maps."""
