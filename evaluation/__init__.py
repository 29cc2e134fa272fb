"""Answers in, scores out: the papers' benchmarks, over a model's answers or over anybody's files.

from llavakit.evaluation.tasks import TASKS      # the table of benchmarks
from llavakit.evaluation.scoring import score    # examples and answers -> scores
from llavakit.evaluation.run import run_task     # asks a model, writes answers, scores and a report
"""
