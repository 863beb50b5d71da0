"""Limits of tokens that a user gives, and the numbers that say that there is none."""

from __future__ import annotations
