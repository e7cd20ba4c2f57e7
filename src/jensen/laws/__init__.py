"""Laws of one dimension, from the numbers a network puts out for it."""
