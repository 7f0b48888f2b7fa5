"""Tasks: templates from a record to a document, and what scores their answers."""

from unimodal.tasks.base import (
    DataConfig,
    Example,
    Record,
    Task,
    TaskConfig,
    build_task,
    open_data,
    tasks,
)
from unimodal.tasks.defaults import default_tasks

__all__ = [
    "DataConfig",
    "Example",
    "Record",
    "Task",
    "TaskConfig",
    "build_task",
    "default_tasks",
    "open_data",
    "tasks",
]
