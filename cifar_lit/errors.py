"""The one exception whose message is meant for the person at the keyboard."""


class UserError(Exception):
    """Something the user can put right. Its message is one line: what is wrong, and what to do about it."""
