"""One training loop, fed with fitters; runs on disk; where and in what arithmetic."""
