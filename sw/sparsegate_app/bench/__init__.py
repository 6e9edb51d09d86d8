"""Measurements that take longer than a test: each module runs with ``python -m`` and says what it measured."""
