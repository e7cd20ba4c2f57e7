"""`jensen compare`: several models on the same split and the same test rows, one table.

plan        what was asked for, checked before any work
meter       time and peak memory of a piece of work
scores      log-likelihoods kept as safetensors
samples     two-sample measures of what each model draws
attempts    one model, one seed: fitted, scored, measured, kept, found again
folder      DIR: whose it is, and what is written there
table       the rows of the table, as plain dicts
alike       these measures as cells
text        the table for a terminal
picture     dots with error bars, one panel a measure
page        the HTML page
comparison  the value, and `compare`, which makes it
"""

from jensen.evaluation.compare.comparison import Comparison, compare
from jensen.evaluation.compare.plan import by_model, planned

__all__ = ["Comparison", "by_model", "compare", "planned"]
