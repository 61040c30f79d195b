"""Fuzzing of all that reads what others wrote: with Hypothesis in the tests, by coverage (atheris) by hand."""
