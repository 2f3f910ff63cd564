"""Background tasks, where code written for FastAPI looks for them."""

from fasterapi._background import BackgroundTask, BackgroundTasks

__all__ = ["BackgroundTask", "BackgroundTasks"]
