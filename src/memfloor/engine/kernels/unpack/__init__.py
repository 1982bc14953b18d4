"""Packed weights as bf16."""
