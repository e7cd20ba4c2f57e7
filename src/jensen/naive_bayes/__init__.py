"""Class-conditional distributions of single columns: the parts of `models.naive_bayes`."""
