"""The search of a prompt for a base model: which instruction, how many examples, which ones and in which order.

Only train rows are shown, and only validation rows are scored. search.py holds the rules; it knows no model, so that
its errors can be measured in many simulated worlds.
"""
