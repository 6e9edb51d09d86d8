"""The stages as library functions: what the command line prints, what ``report`` reads and what a Python user gets.

Each module has one stage and its result, a frozen dataclass; :mod:`~sparsegate_app.stages.lower` has all of them in order.
"""
