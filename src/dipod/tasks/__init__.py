"""What a policy is trained on."""

from dipod.tasks.protocol import Problems, Task, Vocabulary

__all__ = ["Problems", "Task", "Vocabulary"]
