"""The one exception for data that is absent, damaged or not what the config states."""


class DataError(RuntimeError):
    """The dataset cannot be used; the message says what is wrong and what the user can do about it."""
