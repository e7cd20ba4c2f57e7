"""What a fitted model is worth: likelihoods beside controls, pictures, the report."""
