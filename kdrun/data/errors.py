"""The one exception for data that is absent, damaged or not what the config states."""


class DataError(RuntimeError):
    """The dataset cannot be used; the message says what is wrong and what the user can do about it."""


class ChangedError(DataError):
    """An image has other content than when its digest was taken, or cannot be read any more."""
