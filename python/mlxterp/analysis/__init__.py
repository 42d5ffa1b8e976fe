"""Analyses of a model: functions from prompts to results."""
