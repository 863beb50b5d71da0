"""Stages between source and batch: functions of the user, classes, and the rules for rows that are left out."""
