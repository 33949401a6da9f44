"""Files of users' code: decorators that are installed, and that are the user's own."""

INSTALLED = """
import functools
def around(function):
    @functools.wraps(function)
    def wrapper(*given):
        return function(*given)
    return wrapper
"""

SCALED = """
def scaled(factor):
    def around(function):
        @functools.wraps(function)
        def wrapper(x):
            return function(x) * factor
        return wrapper
    return around
"""
